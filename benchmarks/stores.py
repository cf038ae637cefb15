"""How well search finds with Cranfield in one store and in twenty: `python -m benchmarks.stores FOLDER`.

FOLDER holds `cran.all.1400`, `cran.qry` and `cranqrel` (http://ir.dcs.gla.ac.uk/resources/test_collections/cran/). The figure is
the mean nDCG@10 over all queries.
"""

import json
import math
import re
import statistics
import sys
import tempfile
from pathlib import Path

from tests.knowledge_stand import Knowledge

RESULT = Path(__file__).parent / "results" / "stores.json"
STORES, DEPTH = 20, 10


def main() -> None:
    """Measures, prints, writes the result."""
    data = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        service = Knowledge(Path(name))
        try:
            found = measure(service, data)
        finally:
            service.process.stop()
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def measure(service: Knowledge, data: Path) -> dict[str, float]:
    """nDCG@10 in one store, and in twenty that are searched as one."""
    documents = {key: text for key, text in records(data / "cran.all.1400") if text}
    queries = [text for _, text in records(data / "cran.qry")]
    wanted: dict[int, dict[str, int]] = {}
    for line in (data / "cranqrel").read_text().splitlines():
        query, document, relevance = line.split()[:3]
        wanted.setdefault(int(query) - 1, {})[document] = 5 - int(relevance) if int(relevance) > 0 else 0
    ids = {service.file_id(f"{key}.txt", text.encode()): key for key, text in documents.items()}
    names = list(ids)
    one = [service.store("one", *names[:500])]
    for name in names[500:]:
        service.call("POST", f"/v1/vector_stores/{one[0]}/files", json={"file_id": name})
    service.wait_done(one[0], timeout_s=1200)
    many = [service.store(f"part {n}", *names[n::STORES], wait=False) for n in range(STORES)]
    for store_id in many:
        service.wait_done(store_id, timeout_s=600)

    def ranked(stores: list[str], query: str) -> list[str]:
        body = {"vector_store_ids": stores, "query": query[:4000], "max_num_results": 3 * DEPTH}
        answer = service.call("POST", "/v1/vector_stores/search", json=body)
        assert answer.status_code == 200, answer.text
        hits = sorted(answer.json()["data"], key=lambda hit: -hit["score"])
        return list(dict.fromkeys(ids[hit["file_id"]] for hit in hits))[:DEPTH]

    def mean(stores: list[str]) -> float:
        scores = [ndcg(ranked(stores, query), wanted[n]) for n, query in enumerate(queries) if n in wanted]
        return round(statistics.mean(scores), 4)

    single, several = mean(one), mean(many)
    return {"stores": STORES, "one_store": single, "as_one_search": several, "ratio": round(several / single, 3)}


def records(path: Path) -> list[tuple[str, str]]:
    """Number and text of each record."""
    found = []
    for record in re.split(r"^\.I ", path.read_text(errors="replace"), flags=re.MULTILINE)[1:]:
        number, _, rest = record.partition("\n")
        text = rest.partition(".W\n")[2]
        found.append((number.strip(), " ".join(text.split())))
    return found


def ndcg(ranking: list[str], gains: dict[str, int]) -> float:
    """Of the first ten; 1 is best."""
    total = sum(gains.get(key, 0) / math.log2(at + 2) for at, key in enumerate(ranking))
    best = sum(gain / math.log2(at + 2) for at, gain in enumerate(sorted(gains.values(), reverse=True)[:DEPTH]))
    return total / best if best else 0.0


if __name__ == "__main__":
    main()
