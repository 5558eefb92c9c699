"""Whatever is asked of the running service, on either database: no 5xx, every refusal says what to do, and memory stays small."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cataloger.api.graphql_limits import MAX_COST
from cataloger.api.guard import BODY_BYTES
from cataloger.api.parameters import VolumeList
from cataloger.database import Database
from cataloger.testing_builders import JOB, a_status
from cataloger.testing_killed import Cataloger
from cataloger.testing_world import World
from emporter_runtime.objects import Objects
from emporter_runtime.settings import Settings
from emporter_runtime.testing_bus import free_port

EXAMPLES = int(os.environ.get("EMPORTER_FUZZ_EXAMPLES", "8"))
"""Of each operation; making them takes longer than asking."""
MEMORY = 400 * 2**20
"""What the process may ever have taken (VmHWM): it begins at some 150 MB, and no one body may add more than a few of its own size."""
OPERATIONS = (
    "GET /v1/volumes", "POST /v1/volumes", "GET /v1/facets", "GET /v1/volumes/{volume}", "PATCH /v1/volumes/{volume}",
    "GET /v1/volumes/{volume}/events", "GET /v1/volumes/{volume}/lineage", "GET /v1/raw", "GET /v1/quality", "GET /v1/volumes/{volume}/citation",
    "GET /v1/citations", "GET /v1/jobs", "GET /v1/jobs/{job}", "GET /v1/jobs/{job}/stream", "GET /v1/catalog.csv", "GET /v1/catalog.json",
    "PUT /v1/volumes/{volume}/annotations/{key}", "DELETE /v1/volumes/{volume}/annotations/{key}", "POST /graphql", "POST /v1/webhooks",
    "GET /v1/webhooks", "DELETE /v1/webhooks/{webhook}", "GET /v1/webhooks/{webhook}/deliveries", "POST /v1/webhooks/{webhook}/retry",
    "GET /v1/policies/{digest}",
    "GET /v1/policy",
    "GET /v1/policy/decisions",
    "GET /v1/volumes/{volume}/policy",
    "POST /v1/volumes/{volume}/revisions",
)  # fmt: skip


class House:
    """A running cataloger with a volume of ours and one entered from outside."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            # Nobody there: what is asked over HTTP is answered without a bus.
            "EMPORTER_NATS_URL": f"nats://127.0.0.1:{free_port()}",
            "EMPORTER_STORE_URL": f"file://{folder}/store",
            "EMPORTER_DATABASE_URL": database_url,
            "EMPORTER_HTTP_PORT": str(port),
        }
        self.cataloger = Cataloger(self.environment, folder / "cataloger.log")
        self.web = httpx.Client(base_url=self.url, timeout=60)

    async def fill(self) -> None:
        database = Database.open(self.environment["EMPORTER_DATABASE_URL"])
        await database.migrate()
        world = World(database)
        world.objects = Objects.open(Settings(store_url=self.environment["EMPORTER_STORE_URL"]))
        await world.hear(a_status())
        await database.close()

    def until_up(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.web.get(f"/v1/volumes/{JOB}").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        pytest.fail(self.cataloger.said())

    def peak(self) -> int:
        status = Path(f"/proc/{self.cataloger.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def post(self, path: str, body: bytes | str, kind: str = "application/json", method: str = "POST") -> httpx.Response:
        return self.web.request(method, path, content=body, headers={"content-type": kind})


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("any")
    url = f"sqlite+aiosqlite:///{folder}/catalog.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url") + "/postgres"
    house = House(folder, url)
    asyncio.run(house.fill())
    house.cataloger.start()
    try:
        house.until_up()
        yield house
    finally:
        house.web.close()
        house.cataloger.kill()


def refusal(status: int, headers: Any, text: str) -> None:
    assert status < 500, (status, text[:500])
    if status >= 400:
        assert headers["content-type"] == "application/problem+json", (status, headers["content-type"])
        assert '"code"' in text
        assert '"hint"' in text


def test_every_operation_of_the_openapi_document_is_asked_here(house: House):
    paths = house.web.get("/openapi.json").json()["paths"]
    assert sorted(OPERATIONS) == sorted(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_request_that_openapi_allows_is_an_error_of_ours(house: House, operation: str):
    method, path = operation.split(" ", 1)
    schema = schemathesis.openapi.from_dict(house.web.get("/openapi.json").json())

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=schema[path][method].as_strategy(), volume=st.sampled_from([JOB, f"{JOB}@r1", "entered-one", None]))
    def ask(case: Any, volume: str | None) -> None:
        for name in ("volume", "job"):
            if volume is not None and name in (case.path_parameters or {}) and (path, method) != ("/v1/jobs/{job}/stream", "GET"):
                case.path_parameters[name] = volume
        answer = case.call(base_url=house.url, timeout=60)
        text = (answer.content or b"").decode(errors="replace")
        if path.endswith("/revisions") and answer.status_code == 503:
            # Asked of a converter over the bus, and here is none: it is told as such.
            assert '"transient"' in text
            return
        refusal(answer.status_code, {k.lower(): v[0] for k, v in answer.headers.items()}, text)

    ask()


SQL = [
    "'", '"', ";", "--", "' OR '1'='1", "'; DROP TABLE volumes; --", "\\", "\\'", "%", "_", "$1", ":id", "?", "{}", "/*", "*/", "''", "`",
    "x'); DELETE FROM jobs; --", "\x00", "\ud800", "\u2028", "🧠" * 50, "a" * 5000, "NULL", "1e999", "-0", "9" * 30, "0x10", "²", "NaN",
    "'||pg_sleep(30)||'", "(SELECT 1)", "AND OR NOT NEAR(", '"*', "^", "~*", "search_words:x", "$$", "E'\\x27'", "%00", "\r\n", "..", "@r0", "=",
]  # fmt: skip
"""What means something to a database, to FTS5, to tsquery, to a jsonpath, to a URL."""
TEXTS = [name for name, field in VolumeList.model_fields.items() if name not in ("limit", "max_voxel_nm")]


def encoded(text: str) -> str:
    return quote(text.encode(errors="surrogatepass"), safe="")


@pytest.mark.parametrize("name", TEXTS)
def test_no_parameter_takes_what_means_something_to_a_database_for_more_than_text(house: House, name: str):
    before = house.web.get("/v1/volumes").json()["items"]
    forms = {"where": ["metadata.core.axes={}", 'metadata."{0}"~{0}'], "annotation": ["key={}"]}.get(name, ["{0}..{0}"])
    with httpx.Client(timeout=20) as web:
        for text in SQL:
            for value in (text, *(form.replace("{0}", text).replace("{}", text) for form in forms)):
                for path in ("/v1/volumes", "/v1/facets", "/v1/citations"):
                    if path != "/v1/volumes" and value != text:
                        continue
                    answer = web.get(f"{house.url}{path}?{name}={encoded(value)}")
                    refusal(answer.status_code, answer.headers, answer.text)
    assert house.web.get("/v1/volumes").json()["items"] == before


PLACES = (
    "/v1/volumes/{x}", "/v1/volumes/{x}/events", "/v1/volumes/{x}/lineage", "/v1/volumes/{x}/citation", "/v1/jobs/{x}", "/v1/jobs/{x}/stream",
    "/v1/webhooks/{x}/deliveries", "/v1/policies/{x}", "/v1/policy/decisions?volume={x}", "/v1/policy/decisions?job={x}",
    "/v1/policy/decisions?cursor={x}", "/v1/volumes/{x}/policy", "/v1/raw?url={x}", "/v1/raw?sha256={x}", "/v1/jobs?state={x}", "/v1/jobs?source={x}", "/v1/jobs?cursor={x}",
    "/v1/quality?gate={x}", "/v1/quality?volume={x}", "/v1/quality?cursor={x}",
    f"/v1/volumes/{JOB}/events?cursor={{x}}", "/v1/citations?volume={x}", "/v1/citations?format={x}", "/{x}", "/v1/{x}",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_can_be_written_in_a_url_is_an_error_of_ours(house: House, place: str):
    with httpx.Client(timeout=20) as web:
        for text in SQL:
            raw = httpx.URL(house.url).copy_with(raw_path=place.format(x=encoded(text)).encode())
            answer = web.get(raw)
            refusal(answer.status_code, answer.headers, answer.text)


def test_what_is_written_may_hold_anything_and_comes_back(house: House):
    for n, text in enumerate(SQL):
        body = json.dumps({"value": text or " "})  # lone surrogates and NUL as \uXXXX
        answer = house.post(f"/v1/volumes/{JOB}/annotations/key", body, method="PUT")
        refusal(answer.status_code, answer.headers, answer.text)
        entered = json.dumps({"source": "lab", "source_id": f"{n}{text}", "metadata": {"core": {"description": text}}})
        refusal((made := house.post("/v1/volumes", entered)).status_code, made.headers, made.text)
        hook = json.dumps({"url": f"http://receiver.example/{text}", "types": [text], "filter": {"source": text}})
        refusal((made := house.post("/v1/webhooks", hook)).status_code, made.headers, made.text)
        refusal(
            (made := house.post("/graphql", json.dumps({"query": text, "operationName": text}))).status_code,
            made.headers,
            made.text,
        )
        variables = {"query": "query ($t: String) { volumes(filter: {q: $t, source: $t, where: [$t]}) { items { id } } }"}
        asked = house.post("/graphql", json.dumps({**variables, "variables": {"t": text}}))
        refusal(asked.status_code, asked.headers, asked.text)
        assert "internal" not in asked.text
    assert house.web.get(f"/v1/volumes?q={JOB}").status_code == 200


DEEP = 200_000
NAME = random.Random(6).randbytes(3000).hex()
GATES = [{"gate": f"g{n}", "verdict": "fail", "slices": [2**70]} for n in range(5000)] + [{"gate": NAME, "verdict": "warn"}]
BOMBS = {
    "lists in lists": "[" * DEEP + "]" * DEEP,
    "objects in objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "lists in lists that never end": "[" * DEEP,
    "a deep field": '{"source":"lab","source_id":"deep","metadata":' + '{"core":' * 5000 + "1" + "}" * 5000 + "}",
    "a deep archive": '{"source":"lab","source_id":"deep","additional_metadata":' + '{"a":' * 150 + "1" + "}" * 150 + "}",
    "a number of many digits": '{"source":"lab","source_id":' + "9" * 900_000 + "}",
    "a large exponent": '{"source":"lab","source_id":"x","additional_metadata":{"n":1e999999999}}',
    "no number": '{"source":"lab","source_id":"x","additional_metadata":{"n":NaN,"m":-Infinity}}',
    "an integer of many digits": '{"source":"lab","source_id":"y","additional_metadata":{"n":' + "9" * 4000 + "}}",
    "thousands of gates": json.dumps({"source": "lab", "source_id": "g", "metadata": {"quality": {"gates": GATES}}}),
    "names longer than an entry of an index": json.dumps(
        {
            "source": NAME,
            "source_id": "long",
            "licence": {"spdx": NAME, "known": True},
            "metadata": {"core": {"modality": NAME, "data_type": NAME, "labels_of": NAME}},
        }
    ),
    "names twice": '{"source":"lab","source":"' + "b" * 50 + '","source_id":"t","source_id":"u"}',
    "a hundred thousand names": "{" + ",".join(f'"k{n}":{n}' for n in range(60_000)) + "}",
    "a long name": '{"' + "k" * 900_000 + '":1}',
    "half a surrogate": '{"source":"lab","source_id":"\\ud800","additional_metadata":{"\\udfff":"\\ud800"}}',
    "not UTF-8": b'{"source":"\xff\xfe"}',
    "another encoding": '{"source":"lab","source_id":"x"}'.encode("utf-16"),
    "nothing": "",
    "null": "null",
    "a text": '"text"',
}
WRITES = (("POST", "/v1/volumes"), ("PATCH", "/v1/volumes/entered-bomb"), ("PUT", f"/v1/volumes/{JOB}/annotations/bomb"), ("POST", "/graphql"), ("POST", "/v1/webhooks"))  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_body_made_to_hurt_is_refused_and_costs_nothing(house: House, bomb: str):
    house.post("/v1/volumes", '{"source": "entered", "source_id": "bomb"}')
    for method, path in WRITES:
        answer = house.post(path, BOMBS[bomb], method=method)
        refusal(answer.status_code, answer.headers, answer.text)
    assert house.web.get("/v1/catalog.json", timeout=60).status_code == 200
    assert house.peak() < MEMORY


@pytest.mark.parametrize("path", ["/v1/volumes", "/graphql", "/v1/webhooks"])
@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in pieces"])
def test_a_body_of_100_mb_is_refused_long_before_its_end(house: House, path: str, told: bool):
    size = 100 * 2**20
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {size}\r\n\r\n" if told else "Transfer-Encoding: chunked\r\n\r\n"
    piece = b" " * 2**16 if told else b"10000\r\n" + b" " * 2**16 + b"\r\n"
    sent = 0
    with closing(socket.create_connection(("127.0.0.1", int(house.url.rsplit(":", 1)[1])), timeout=30)) as connection:
        connection.sendall(head.encode())
        try:
            while sent < size:
                connection.sendall(piece)
                sent += 2**16
        except OSError:
            pass
        assert connection.recv(20).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")) or sent < size
    assert sent <= size
    assert house.peak() < MEMORY
    assert house.web.get(f"/v1/volumes/{JOB}").status_code == 200


ATTACKS = {
    "aliases": "{" + " ".join(f"a{n}: facets" for n in range(100)) + "}",
    "aliases of lists": "{" + " ".join(f"a{n}: volumes(first: 1000) {{ items {{ record }} }}" for n in range(20)) + "}",
    "depth": "{ volumes { items " + "{ labels " * 60 + "{ id }" + " }" * 60 + " } }",
    "depth past the parser": "{" * 100_000,
    "cost": "{ volumes(first: 1000) { items { labels(first: 1000) { record events(first: 1000) { data } } } } }",
    "cost by a variable": "query ($n: Int = 1000) { volumes(first: $n) { items { labels(first: $n) { lineage } } } }",
    "cost by a default": "query ($n: Int = 100000) { volumes(first: $n) { items { record labels { record } } } }",
    "fragments that double": "{ ...f0 } " + " ".join(f"fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }}" for n in range(30)) + " fragment f30 on Query { facets }",
    "fragments in a ring": "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }",
    "inline fragments": "{ " + "... on Query { " * 500 + "facets" + " }" * 500 + " }",
    "directives": "{ facets " + "@include(if: true) " * 1900 + " }",
    "unknown directives": "{ facets " + "@nothing " * 1900 + " }",
    "operations": " ".join(f"query q{n} {{ facets }}" for n in range(500)),
    "a field again and again": "{ " + "facets " * 3000 + "}",
    "a long word": '{ volumes(filter: {q: "' + "x" * 500_000 + '"}) { items { id } } }',
    "a long list": "{ volumes(filter: {where: [" + ",".join('"a=1"' for _ in range(900)) + "]}) { items { id } } }",
    "introspection of introspection": "{ __schema { types { fields { type { fields { type { fields { type { fields { type { name } } } } } } } } } } }",
    "a mutation": "mutation { deleteAll }",
    "a subscription": "subscription { volumes { items { id } } }",
    "an int that is none": "{ volumes(first: 1e400) { items { id } } }",
    "a negative first": "{ volumes(first: -5) { items { id } } }",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_graphql_document_made_to_hurt_is_refused_or_bounded(house: House, attack: str):
    begun = time.process_time()
    answer = house.post("/graphql", json.dumps({"query": ATTACKS[attack], "variables": {"n": 1000}}))
    refusal(answer.status_code, answer.headers, answer.text)
    assert answer.status_code == 400 or len(answer.content) < 2 * BODY_BYTES
    assert '"internal"' not in answer.text
    assert time.process_time() - begun < 60
    assert house.peak() < MEMORY


def test_a_batch_of_graphql_documents_is_refused(house: House):
    answer = house.post("/graphql", json.dumps([{"query": "{ facets }"}] * 1000))
    assert answer.status_code == 400
    assert MAX_COST == 20_000


NASTY = st.one_of(st.text(max_size=30), st.sampled_from(SQL), st.integers(-(10**30), 10**30).map(str))


@settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(query=st.dictionaries(st.sampled_from([*TEXTS, "limit", "max_voxel_nm"]), NASTY, max_size=4))
def test_no_mixture_of_parameters_is_an_error_of_ours(house: House, query: dict[str, str]):
    written = urlencode({k: v.encode(errors="surrogatepass") for k, v in query.items()})
    answer = house.web.get(f"/v1/volumes?{written}", timeout=30)
    refusal(answer.status_code, answer.headers, answer.text)
