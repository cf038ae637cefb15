"""`python -m agents --config tidegate.yaml`: the agents service."""

import os

from agents.service import build
from tidegate.serving.run import main

os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"  # nothing leaves this house

if __name__ == "__main__":
    main("agents", __doc__ or "", build)
