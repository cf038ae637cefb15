"""Ask the documents: a handbook is ingested, and a plain chat client asks a preset that searches it.

The assertions are on what was retrieved, cited and sent to the model, never on the small model's prose.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

HANDBOOK = Path(__file__).parent / "handbook"
QUESTIONS = {
    "How much may a shift lead sign for when a refund is approved?": ("refunds.md", "12,000 euros"),
    "What is the heron list?": ("chargebacks.html", "0.85 percent"),
    "What do I do when the clearing bank rejects a file with code K17?": ("settlement.docx", "sequence number"),
    "Who may unfreeze the releases with thaw harbour?": ("incident_response.pdf", "duty officer"),
}
client = OpenAI()


def main() -> None:
    """Ingests, asks whole and streamed, and looks at what was cited."""
    preset = os.environ["TIDEGATE_PRESETS"].split(",")[0]
    ingest()
    for question, (filename, fact) in QUESTIONS.items():
        ask(preset, question, filename, fact)
    ask_streamed(preset, "How many parts may a payment be refunded in?", "refunds.md")
    embed()


def ingest() -> None:
    """`tidegate ingest`; a second time nothing is left to do."""
    command = [sys.executable, "-m", "tidegate.cli", "ingest", str(HANDBOOK), "--store", "handbook"]
    first = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200).stdout
    again = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    print(f"  ingest: {first.strip().splitlines()[-1]}; again: {again.strip().splitlines()[-1]}")
    assert "0 failed" in first and "9 unchanged" in again, (first, again)


def ask(preset: str, question: str, filename: str, fact: str) -> None:
    """A chat like any other; the message carries citations, and each span leads to the text that was shown."""
    answer = client.chat.completions.create(
        model=preset, messages=[{"role": "user", "content": question}], max_tokens=24, temperature=0
    )
    message: Any = answer.choices[0].message
    cited = message.citations
    best = next(citation for citation in cited if citation["filename"] == filename)
    place = f"page {best['page']}" if best["page"] else best["heading"]
    print(f"  {question}\n    → [{best['index']}] {filename}, {place}, characters {best['start']}-{best['end']}")
    text = client.files.content(best["file_id"]).text
    assert fact in text[best["start"] : best["end"]], text[best["start"] : best["end"]]
    assert answer.usage is not None and answer.usage.prompt_tokens > 150, "the passages were sent to the model"


def ask_streamed(preset: str, question: str, filename: str) -> None:
    """The citations come in one chunk without choices, before the end."""
    stream = client.chat.completions.create(
        model=preset, messages=[{"role": "user", "content": question}], max_tokens=8, stream=True
    )
    chunks: list[Any] = list(stream)
    assert chunks[-1].choices == [] and filename in {citation["filename"] for citation in chunks[-1].citations}
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    print(f"  streamed: {said!r} and {len(chunks[-1].citations)} citations")


def embed() -> None:
    """Embeddings from the same door, metered like any call."""
    answer = client.embeddings.create(model="all-minilm-l6-v2", input=["refund", "money back", "tulip"])
    first, second, third = (item.embedding for item in answer.data)

    def alike(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    print(f"  embeddings: {len(first)} dimensions, {answer.usage.prompt_tokens} tokens")
    assert alike(first, second) > alike(first, third)


if __name__ == "__main__":
    main()
