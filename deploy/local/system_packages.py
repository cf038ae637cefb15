"""Installs the system packages that some tests need, where this user may; elsewhere says what is missing."""

import os
import shutil
import subprocess

NEEDED = {
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "haproxy": "haproxy",
    "cc": "build-essential",
    "promtool": "prometheus",
    "node": "nodejs",
    "npm": "npm",
}
"""Program to Debian package."""


def main() -> None:
    """Installs what is missing, as root on a Debian-like machine; never fails for a missing right."""
    missing = [package for program, package in NEEDED.items() if not found(program)]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"  `make test-services` also needs: {', '.join(missing)}")
        return
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True)


def found(program: str) -> bool:
    """On the path, or where Debian keeps PostgreSQL's server programs."""
    return shutil.which(program) is not None or any(
        os.access(f"/usr/lib/postgresql/{version}/bin/{program}", os.X_OK) for version in range(13, 20)
    )


if __name__ == "__main__":
    main()
