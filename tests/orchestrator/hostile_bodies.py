"""Submissions in malice or by mistake: those of `tests.jobs.corpus`, and what only the body of a request can be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.jobs.corpus import ANY_TEXT, BOMBS, DOCUMENTS, PUNCTUATION

_YAML, _JSON = "application/yaml", "application/json"


@dataclass(frozen=True, kw_only=True)
class Body:
    """One of them."""

    what: str
    content: bytes
    media_type: str = _YAML


def bodies(count: int, *, good: str, outside: Path) -> list[Body]:
    """So many, the same ones each time.

    Args:
        count: At least those that are written down; the rest is generated.
        good: A spec of one job, which most of them are near to.
        outside: A file that no job may read.
    """
    found = [Body(what=name, content=text.encode()) for name, text in BOMBS.items()]
    found += [*_written(good, outside), *_requests(good)]
    generated = _generated(good, count - len(found))
    return [*found, *generated][:count]


def _written(good: str, outside: Path) -> list[Body]:
    """Fields with values that lead elsewhere, run something, or are shown to somebody."""
    document = yaml.safe_load(good)
    paths = [str(outside), f"{outside.parent}/x/../{outside.name}", "../" * 40 + str(outside)[1:], "/proc/self/environ",
             "/dev/zero", "/dev/stdin", "%2e%2e/%2e%2e/etc/passwd", "a\0b.jsonl", "file:///etc/passwd", "~/x.jsonl",
             "http://127.0.0.1:9/x.jsonl", "\\\\host\\share", "/" + "a/" * 2000, "💥.jsonl"]  # fmt: skip
    names = ["../../etc", "a/b", "a%2fb", "A", "", "-a", "a" * 64, "a\0", "con.1", "<script>alert(1)</script>", "аdmin"]
    markup = "<img src=x onerror=alert(1)>"
    changed = {
        **{f"dataset {path[:20]!r}": {"datasets": [{"path": path}]} for path in paths},
        **{f"base {path[:20]!r}": {"model": {"model_name_or_path": path}} for path in paths},
        **{f"template {path[:20]!r}": {"model": {**document["model"], "chat_template_path": path}} for path in paths},
        **{f"name {name[:20]!r}": {"name": name} for name in names},
        "remote code": {"model": {**document["model"], "trust_remote_code": True}},
        "a label of markup": {"labels": {"a": markup, markup: "b"}},
        "a queue of markup": {"scheduling": {"queue": markup}},
        "an output elsewhere": {"output": {"uri": "s3://elsewhere/x"}},
        "a regular expression": {"lora": {"target_modules": "(a+)+$"}},
        "a glob of stars": {"lora": {"target_modules": ["*" * 200 + "x"]}},
        "patterns of stars": {"lora": {"rank_pattern": {"*a" * 100: 4}}},
        "a huge rank": {"lora": {"r": 2**62}},
        "a huge batch": {"training": {"per_device_train_batch_size": 2**62, "max_steps": 2**62}},
        "not a number": {"training": {"learning_rate": float("nan")}},
        "a priority beyond all": {"scheduling": {"priority": 2**70}},
    }
    return [
        Body(what=what, content=json.dumps({**document, **change}).encode(), media_type=_JSON)
        for what, change in changed.items()
    ] + [
        Body(what="a tag that runs code", content=(good + "labels: !!python/object/apply:os.system [a]\n").encode()),
        Body(what="a tag of the system", content=b"!!python/name:os.system\n"),
        Body(what="ten thousand jobs", content=(good + "sweep: {parameters: {training.seed: {values: ["
             + ",".join(map(str, range(10_000))) + "]}}}\n").encode()),
        Body(what="no end of a sweep", content=(good + "sweep: {parameters: {training.learning_rate: {min: 0, max: 1, "
             "log: true}}}\n").encode()),
    ]  # fmt: skip


def _requests(good: str) -> list[Body]:
    whole = good.encode()
    return [
        Body(what="nothing", content=b""),
        Body(what="too large", content=whole + b"#" * (300 * 1024)),
        Body(what="not UTF-8", content=b"name: \xff\xfe\n"),
        Body(what="UTF-16", content=good.encode("utf-16")),
        Body(what="NUL", content=b"\0" * 1000),
        Body(what="a byte order mark", content=b"\xef\xbb\xbf" + b"{"),
        Body(what="JSON that is none", content=b"{", media_type=_JSON),
        Body(what="deep JSON", content=b"[" * 100_000, media_type=_JSON),
        Body(what="deep JSON that ends", content=b'{"a":' * 20_000 + b"1" + b"}" * 20_000, media_type=_JSON),
        Body(what="a long number in JSON", content=b'{"name": ' + b"9" * 200_000 + b"}", media_type=_JSON),
        Body(what="surrogates in JSON", content=b'{"name": "\\ud800"}', media_type=_JSON),
        Body(what="a key twice in JSON", content=b'{"name": "a", "name": "b"}', media_type=_JSON),
        Body(what="YAML called JSON", content=whole, media_type=_JSON),
        Body(what="a pickle", content=b"\x80\x04K\x01.", media_type="application/octet-stream"),
        Body(what="a form", content=b"name=a", media_type="application/x-www-form-urlencoded"),
        Body(what="a strange media type", content=whole, media_type="a" * 5000),
    ]


def _generated(good: str, count: int) -> list[Body]:
    found: list[Body] = []
    document = yaml.safe_load(good)
    drawn = st.one_of(
        st.builds(lambda text: ("text", text), ANY_TEXT),
        st.builds(lambda text: ("punctuation", good + text), PUNCTUATION),
        st.builds(lambda one: ("a document", yaml.safe_dump(one, sort_keys=False)), DOCUMENTS),
        st.builds(lambda one: ("nearly a job", yaml.safe_dump({**document, **one}, sort_keys=False)), DOCUMENTS),
    )

    @settings(
        # Some are drawn twice.
        max_examples=count + count // 4,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn)
    def collect(one: tuple[str, str]) -> None:
        found.append(Body(what=one[0], content=one[1].encode("utf-8", "surrogatepass")))

    collect()
    return list(dict.fromkeys(found))[:count]
