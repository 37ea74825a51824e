"""The examples of the retrieval drop-ins, run as they stand there, twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e.test_readme import run
from tests.hanging import until_settled
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.sidecars import Launch, Sidecar


async def layers(sidecar: Sidecar) -> dict[str, pb.LayerStats]:
    stats = await sidecar.stub.Stats(pb.StatsRequest())
    return {layer.cache_layer: layer for layer in stats.layers}


async def example(repository: Path, name: str, sidecar: Sidecar) -> str:
    """Run an example; returns what it printed."""
    where = {"MGE_CACHE_TARGET": sidecar.target}
    code, said = await run(f"examples/{name}.py", cwd=repository, settings=where)
    assert code == 0, said
    return said


async def warm(repository: Path, name: str, sidecar: Sidecar) -> str:
    """Run an example whose results are stored: the cache answers all.

    On a busy machine a process's first look-up can miss its deadline; then the source is asked.
    """
    said = ""

    async def nothing_retrieved() -> bool:
        nonlocal said
        said = await example(repository, name, sidecar)
        return "retrieved=0, uncached={}, failures=0)" in said

    await eventually(nothing_retrieved, within_s=60)
    return said


async def test_cached_retriever(launch: Launch, repository: Path) -> None:
    sidecar = await launch()
    await until_settled(sidecar)  # the example has the usual time limits
    said = await example(repository, "cached_retriever", sidecar)
    assert said.count("-> ['password', ") == 3
    assert said.count("(searching for 'How do I change my password?')") == 1
    said = await warm(repository, "cached_retriever", sidecar)
    assert said.count("-> ['password', ") == 3
    assert "(searching" not in said
    counted = await layers(sidecar)
    assert counted["rag"].total_hits >= 2
    assert counted["rag_similarity"].total_hits >= 1


async def test_langchain_cache(launch: Launch, repository: Path) -> None:
    sidecar = await launch()
    await until_settled(sidecar)  # the example has the usual time limits
    for each in (example, warm):
        said = await each(repository, "langchain_cache", sidecar)
        assert said.count("Under Billing. ['") == 2
    counted = await layers(sidecar)
    assert counted["llm"].total_hits >= 2
    assert counted["rag"].total_hits >= 2


FORGETFUL = """
from mge_cache import Timeouts
from mge_cache.retrieval import CachedRetriever

retriever = CachedRetriever(
    lambda query, embedding, k: [query],
    embedding_model="m",
    collection="c",
    timeouts=Timeouts(get_s=20.0, set_s=20.0),
)
found = [retriever.retrieve(f"q{number}", [1.0, float(number)]) for number in range(30)]
print(sum(documents.hit is not None for documents in found))
"""


async def test_threads_are_waited_for_at_the_end(launch: Launch, tmp_path: Path) -> None:
    """A program that does not close its retriever stores what it retrieved all the same."""
    sidecar = await launch(options=("--rag-threshold", "1"))
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    where = {"MGE_CACHE_TARGET": sidecar.target}
    for hits in (0, 30):
        assert await run("forgetful.py", cwd=tmp_path, settings=where) == (0, f"{hits}\n")
