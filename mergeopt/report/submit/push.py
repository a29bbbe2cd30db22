"""A bundle goes to the Hub, or it is said in one line why not and what to do; the bundle stays in either case."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergeopt.errors import InputError, MergeoptError
from mergeopt.report.submit.bundle import MARK

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]{0,94}(?<![.-])")


def push(bundle: Path, repository: str, *, public: bool = False, api: "HfApi | None" = None) -> str:
    """Uploads `bundle`; returns where it is to be seen.

    Args:
        bundle: From `write_bundle`.
        repository: ``owner/name``.
        public: For all to see; else the repository is private.
        api: The Hub's client; by default by the user's settings.

    Raises:
        InputError: no such name can be, or the repository is public and `public` was not said.
        MergeoptError: no network, no token, no rights, or the Hub refuses.
    """
    from huggingface_hub import HfApi

    if not _REPOSITORY.fullmatch(repository) or "--" in repository or ".." in repository:
        raise InputError(f"--push {repository!r} is no name of a repository", remedy="write owner/name")
    api = api or HfApi()
    with _explained(bundle, repository, api.endpoint):
        api.create_repo(repository, private=not public, exist_ok=True)
        found = api.repo_info(repository)
        if not public and found.private is False:
            raise InputError(f"{repository} exists and is public", remedy="add --public, or push to another name")
        message = "Merged model by mergeopt"
        made: Any = api.upload_folder(
            repo_id=repository, folder_path=bundle, commit_message=message, ignore_patterns=[MARK, "search/**"]
        )
    return str(made.commit_url)


@contextmanager
def _explained(bundle: Path, repository: str, endpoint: str) -> Iterator[None]:
    """Whatever goes wrong with the Hub, as one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    later = f"the bundle stays in {bundle}; on a connected machine: hf upload {repository} {bundle} ."
    try:
        yield
    except MergeoptError:
        raise
    except LocalTokenNotFoundError:
        raise MergeoptError(f"not pushed: no token; `hf auth login` with one that may write; {later}") from None
    except HfHubHTTPError as error:
        raise MergeoptError(f"not pushed: {_refusal(error, repository)}; {later}") from None
    except OfflineModeIsEnabled:
        raise MergeoptError(f"not pushed: HF_HUB_OFFLINE is set; unset it; {later}") from None
    except (ValueError, KeyError, RuntimeError) as error:
        raise MergeoptError(f"not pushed: the answer of {endpoint} makes no sense ({_brief(error)}); {later}") from None
    except OSError as error:
        raise MergeoptError(f"not pushed: {endpoint} cannot be reached ({_brief(error)}); {later}") from None
    except Exception as error:  # the HTTP library has a family of its own, whose name changed with every major version
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise MergeoptError(f"not pushed: {endpoint} cannot be reached ({_brief(error)}); {later}") from None
        raise


def _refusal(error: Any, repository: str) -> str:
    """What the Hub's answer means."""
    status = getattr(error.response, "status_code", None)
    owner = repository.partition("/")[0]
    if status == 401:
        return "the Hub does not know this token (401); `hf auth login` with one that may write"
    if status == 403:
        return f"this token may not write to {owner} (403); make one with write rights, or push to your own name"
    if status == 429:
        return "too many requests (429); wait some minutes"
    return f"the Hub answered {status}: {str(error).splitlines()[0][:200]}"


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
