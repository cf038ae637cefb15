"""`python -m gateway --config tidegate.yaml`: one gateway process, public and management port."""

import uvloop

from gateway.app import build
from tidegate.serving.run import main

if __name__ == "__main__":
    main("gateway", __doc__ or "", build, uvloop.run)
