"""`python -m rag --config tidegate.yaml`: the knowledge service."""

from rag.service import build
from tidegate.serving.run import main

if __name__ == "__main__":
    main("knowledge", __doc__ or "", build)
