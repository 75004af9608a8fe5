"""`opensama serve`: edits over HTTP, in the form of the OpenAI client, from a queue that survives whatever happens."""

from __future__ import annotations

import contextlib
import multiprocessing
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from opensama.apps.edit_settings import FLAG, LoadSettings
from opensama.apps.jobs.limits import JobLimits
from opensama.apps.options import check_writable_folder
from opensama.values import UserError

if TYPE_CHECKING:
    from opensama.apps.jobs.worker import WorkerSettings
    from opensama.apps.service.access import Access


@Parameter(name="*")
@dataclass(frozen=True)
class ServiceSettings:
    """Where to serve, and for whom.

    Parameters
    ----------
    folder
        Where the queue and the jobs' files lie. The same folder goes on with the same jobs.
    host
        The address to listen at.
    port
        The port there; 0 takes a free one.
    model
        A model that may be asked for, by its name or folder; give it again for more. The first is the default. By
        default tiny.
    keys
        A file of API keys: a line for each, NAME SHA256, and after it queue=N or rate=N for limits of its own.
    key
        Another such key, as NAME:SHA256; give it again for more.
    webhook
        An address that a request may name as its webhook, to be told when its job is over; give it again for more.
    webhook_secret
        The file of the secret by which these are signed, made where there is none. By default webhook-secret in the
        folder.
    webhook_private
        Let webhooks be addresses of this machine or its network, and begin with http.
    new_key
        Make a key for this name, add its hash to the file of --keys, print it, and end. It is printed this once.
    anyway
        Edit, though prompts have words that a model does not know, or it needs more memory or disk than there is.
    ray
        Let actors on the nodes of a Ray cluster make the edits: of the cluster that RAY_ADDRESS names, or of one that
        begins on this machine. The queue and all files stay here.
    workers
        How many actors. By default one for each GPU of the cluster, or where it has none, for each node.
    """

    folder: Path = Path("opensama-service")
    host: str = "127.0.0.1"
    port: int = 8000
    model: Annotated[list[str] | None, Parameter(name=["--model", "-m"], negative=())] = None
    keys: Path | None = None
    key: Annotated[list[str] | None, FLAG] = None
    webhook: Annotated[list[str] | None, Parameter(negative=())] = None
    webhook_secret: Path | None = None
    webhook_private: Annotated[bool, FLAG] = False
    new_key: str | None = None
    anyway: Annotated[bool, FLAG] = False
    ray: Annotated[bool, FLAG] = False
    workers: int | None = None


def serve_command(
    *,
    service: ServiceSettings | None = None,
    limits: JobLimits | None = None,
    load_settings: LoadSettings | None = None,
) -> int:
    """Serve edits over HTTP: `opensama serve`, then `POST /v1/videos/edits`.

    Jobs wait in a queue on disk and survive a restart. The service answers this machine only; another address with
    --host asks for API keys. Several devices, as in `--device cuda:0,cuda:1`, get a worker each.
    """
    return run_service(service or ServiceSettings(), limits or JobLimits(), load_settings or LoadSettings())


def run_service(
    service: ServiceSettings, limits: JobLimits, load_settings: LoadSettings, *, page: bool = False, opens: bool = False
) -> int:
    """Serves until it is told to end, with `page` the page, too, which `opens` in this machine's browser."""
    _check_installed()
    from opensama.apps.service.access import Access, is_loopback
    from opensama.apps.service.access import new_key as make_key

    if service.new_key is not None:
        if service.keys is None:
            raise UserError("--new-key adds a key to a file: name it with --keys.")
        print(make_key(service.keys, service.new_key))
        return 0
    access = Access.of(service.keys, service.key or ())
    if not access.keys and not is_loopback(service.host):
        raise UserError(
            f"At {service.host} others can reach the service, which then wants API keys: make one with --keys FILE "
            "--new-key NAME, and give --keys FILE."
        )
    if not 0 <= service.port < 65536:
        raise UserError(f"A port is a number from 0 to 65535, not {service.port}.")
    load_settings.check_ray(service.ray, service.workers)
    from opensama.apps.service.webhooks import check_webhooks

    webhooks = check_webhooks(service.webhook or (), service.webhook_private)
    models = _models(service.model or ["tiny"])
    devices = [one.strip() or None for one in (load_settings.device or "").split(",")]
    _check_models(models, devices, load_settings, service.anyway or service.ray)
    from opensama.apps.jobs.worker import WorkerSettings

    settings = WorkerSettings(service.folder, models, load_settings, limits, service.anyway, webhooks)
    return _serve(settings, devices, access, service, page, opens)


def _serve(
    settings: WorkerSettings, devices: list[str | None], access: Access, service: ServiceSettings, page: bool,
    opens: bool,
) -> int:  # fmt: skip
    from opensama.apps.jobs.engine import JobEngine
    from opensama.apps.jobs.inspection import PRELOADED
    from opensama.apps.service.server import bound_socket, server_for
    from opensama.apps.service.webhooks import WebhookSender, secret_in
    from opensama.pipeline.batch import ray_cluster, share_of

    check_writable_folder(settings.folder, "--folder")
    host = service.host
    with contextlib.ExitStack() as stack:
        share = None
        if service.ray:
            stack.enter_context(ray_cluster(without="leave out `ray`"))
            share = share_of(service.workers, on_gpu=devices != ["cpu"])
            devices = devices * share.actors
        bound = stack.enter_context(bound_socket(host, service.port))
        engine = stack.enter_context(JobEngine(settings, devices, share=share))
        multiprocessing.set_forkserver_preload(PRELOADED)  # of the processes that look at uploads
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{bound.getsockname()[1]}/"
        if settings.webhooks:
            file = service.webhook_secret or settings.folder / "webhook-secret"
            stack.enter_context(WebhookSender(engine, secret_in(file), service.webhook_private))
            print(f"Webhooks are signed by the secret in {file}", flush=True)
        print(f"Serving {', '.join(settings.models)} at {address}{'' if page else 'v1'}", flush=True)
        if opens:
            webbrowser.open(address)
        server_for(engine, access, page).run(sockets=[bound])
    return 0


def _check_installed() -> None:
    """UserError where the extra is missing."""
    from importlib.util import find_spec

    from opensama.runtime import install_line

    if missing := [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]:
        raise UserError(f"Serving needs {', '.join(missing)}; run: {install_line('serve')}")


def _models(given: list[str]) -> dict[str, str]:
    """The models that are served by the names that requests use: of a folder or a file its own name."""
    from opensama.models.registry import entries

    known, named = [entry.name for entry in entries()], dict[str, str]()
    for one in given:
        name = one if one in known or not Path(one).exists() else Path(one).resolve().name
        if named.setdefault(name, one) != one:
            raise UserError(f"Two models are called {name}: rename one of them.")
    return named


def _check_models(models: dict[str, str], devices: list[str | None], load_settings: LoadSettings, anyway: bool) -> None:
    from dataclasses import replace

    from opensama.models.registry import find

    for one in models.values():
        for device in devices:
            replace(load_settings, device=device).check(find(one), anyway)
