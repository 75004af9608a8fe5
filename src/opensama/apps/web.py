"""`opensama web`: a page for people, over the same queue as `opensama serve`, which it serves, too."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from opensama.apps.edit_settings import LoadSettings
from opensama.apps.jobs.limits import JobLimits
from opensama.apps.serve import ServiceSettings, run_service


def web_command(
    *,
    opens: Annotated[bool, Parameter(name="--open", negative=())] = False,
    service: ServiceSettings | None = None,
    limits: JobLimits | None = None,
    load_settings: LoadSettings | None = None,
) -> int:
    """Edit in a browser: `opensama web`, then open the address that it prints.

    Drop a video, say what to change, look at the first edited frame, then let the clip be edited, compare it with its
    source, and edit it further. Everything stays on this machine. The same address serves programs as `opensama serve`
    does. At another address with --host the page asks for an API key.

    Parameters
    ----------
    opens
        Open the page in this machine's browser.
    """
    return run_service(
        service or ServiceSettings(), limits or JobLimits(), load_settings or LoadSettings(), page=True, opens=opens
    )
