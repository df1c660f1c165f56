"""After a run, a key is nowhere: not in the folder, the cache, git or on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clone import Clone
from support.judge_server import served, verdict

KEY = "sk-proj-" + "7Hk2PlantedKey90817263544536"  # in two parts: the clone holds this file
JUDGE = {
    "weight": 1.0,
    "function": "judge",
    "options": {
        "base_url": "", "model": "judge-1", "api_key_env": "JUDGE_KEY", "instructions": "Is it kind?", "low": -1.0,
        "high": 0.0, "seconds": 20.0, "retries": 0, "concurrency": 4, "max_cost": 1.0, "price_per_million_input": 0.0,
        "price_per_million_output": 0.0, "max_output_tokens": 50, "max_characters": 1000,
    },
}  # fmt: skip


def found_in(folder: Path, *, allowed: tuple[str, ...] = ()) -> Iterator[str]:
    """The files under `folder` that hold the key."""
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if name not in allowed and file.is_file() and not file.is_symlink() and KEY.encode() in file.read_bytes():
            yield name


def judge(url: str, **changes: str) -> dict[str, object]:
    return JUDGE | {"options": {**JUDGE["options"], "base_url": url, **changes}}  # type: ignore[dict-item]


@pytest.mark.slow
def test_the_key_of_a_judge_is_nowhere_after_a_run(fresh: Clone, tmp_path: Path) -> None:
    with served(KEY) as server:
        server.answer = lambda _: verdict(-1) if len(server.bodies) % 9 else (500, {}, f"no: Bearer {KEY}")
        clone = fresh.copy(tmp_path / "clone")
        clone = Clone(clone.folder, clone.env | {"JUDGE_KEY": KEY, "NO_PROXY": "127.0.0.1"})
        clone.set("rewards", {"kind": judge(server.url)})
        clone.set("grpo.steps", 2)
        clone.set("grpo.max_unscorable", 1.0)
        texts = [clone.repro("dvc").text, clone.run("python", "-m", "rlvr", "runs", env={"PYTHONPATH": "src"}).text]
        clone.commit()
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}" and len(server.bodies) > 9
    assert not any(KEY in text for text in texts)
    assert list(found_in(clone.folder)) == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["api_key_env", "base_url"])
def test_a_key_in_the_settings_is_refused_and_stays_where_it_was_written(
    place: str, fresh: Clone, tmp_path: Path
) -> None:
    value = f"http://user:{KEY}@127.0.0.1:9/v1" if place == "base_url" else KEY
    clone = fresh.copy(tmp_path / "clone")
    clone.set("rewards", {"kind": judge("http://127.0.0.1:9/v1", **{place: value})})
    commands = (
        ("python", "-m", "rlvr", "check"),
        ("snakemake", "--cores", "1"),
        ("dvc", "repro"),
    )
    for command in commands:
        text = clone.run(*command, env={"PYTHONPATH": "src"}, fails=True).text
        assert f"rewards.kind.options.{place}" in text and KEY not in text, command
    assert list(found_in(clone.folder, allowed=("params.yaml",))) == []
