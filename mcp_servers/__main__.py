"""`python -m mcp_servers NAME --port PORT --public-keys FILE`: one hosted tool server.

`NAME` is a file of this folder that holds `def build(deps)`, which returns an `MCPServer`.
"""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

import mcp_servers
from mcp_servers.hosting.process import Deps, serve
from mcp_servers.hosting.tokens import TokenChecker


def main() -> None:
    """Command line."""
    names = sorted(module.name for module in pkgutil.iter_modules(mcp_servers.__path__) if not module.ispkg)
    names.remove("__main__")
    parser = argparse.ArgumentParser(prog="python -m mcp_servers", description=(__doc__ or ""))
    parser.add_argument("name", choices=names)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--public-keys", type=Path, required=True, help="the gateway's public keys (JSON Web Key Set)")
    parser.add_argument("--gateway-url", default="http://127.0.0.1:8080", help="where tools call back, for the caller")
    parser.add_argument("--otlp-endpoint", help="where spans are sent")
    options = parser.parse_args()
    try:
        checker = TokenChecker(options.public_keys, f"mcp:{options.name}")
    except (OSError, ValueError) as error:
        sys.exit(f"tool server {options.name!r} cannot start: --public-keys {options.public_keys}: {error}")
    server = importlib.import_module(f"mcp_servers.{options.name}").build
    deps = Deps(options.name, options.gateway_url, options.otlp_endpoint)
    sys.exit(serve(server, deps, checker, options.host, options.port))


if __name__ == "__main__":
    main()
