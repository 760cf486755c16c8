"""Model folders on the Hugging Face Hub: fetched by name and revision, pushed as one commit.

The Hub's own client does the work: its cache, its login, its variables (`HF_HOME`, `HF_TOKEN`,
`HF_HUB_OFFLINE`). Of a repository only a model folder's files are ever asked for.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from endofm.errors import WeightsError
from endofm.hub.card import PLACE
from endofm.hub.folder import _read_config, load

NETWORK_FAULT: type[Exception] = HfHubHTTPError.__bases__[0]
"""What every fault of the client's HTTP library is, whichever library the client builds on."""

CONFIG, CARD = "config.json", "README.md"
MOST_BYTES = {
    CONFIG: 2**20,
    CARD: 2**20,
    "reference.safetensors": 2**26,
    "model.safetensors": 2**33,
}
"""The files of a model folder, and the most bytes of each that are downloaded."""


def fetch(name: str, revision: str | None = None) -> Path:
    """The model folder of the Hub's repository `owner/name`, in the local cache.

    `revision` is a branch, a tag or a commit; by default the newest commit of `main`. Without a
    network, what the cache has of that revision. The configuration is looked at before weights are
    downloaded; `load` checks the folder's reference output. Raises `WeightsError`.
    """
    revision = revision or constants.DEFAULT_REVISION
    _refuse_strange(name, revision)
    with _plainly(name, revision):
        folder = _download(name, CONFIG, revision).parent
        _refuse_other_models(name, folder)
        commit = folder.name  # the other files must be of the same commit, whatever is pushed now
        for file in MOST_BYTES.keys() - {CONFIG, CARD}:
            _download(name, file, commit)
        with contextlib.suppress(EntryNotFoundError):  # a model works without its card
            _download(name, CARD, commit)
    return folder


def push(
    folder: str | Path,
    name: str,
    branch: str | None = None,
    private: bool = True,
    message: str = "Upload a model folder of endofm",
) -> str:
    """Upload a model folder's files to `owner/name` as one commit; the commit's address.

    The folder is loaded first, so that nothing broken is published, and nothing else that lies in
    it goes along. A repository or branch that isn't there is made. A folder that should stay
    private isn't put into a public repository. Raises `WeightsError`.
    """
    folder = Path(folder)
    load(folder)
    if not (folder / CARD).is_file():
        raise WeightsError(f"{folder} has no model card ({CARD}); write one, others will read it.")
    _refuse_strange(name, branch or constants.DEFAULT_REVISION)
    if get_token() is None:
        raise WeightsError(
            f"Pushing to {name} needs a login at the Hub; run `hf auth login`, or set HF_TOKEN."
        )
    api = HfApi()
    with _plainly(name, branch or constants.DEFAULT_REVISION):
        name = api.create_repo(name, private=private, exist_ok=True).repo_id
        if private and not api.model_info(name).private:
            raise WeightsError(
                f"{name} is public, and so would be what is pushed; choose another name, make the "
                "repository private in its settings, or ask for a public push."
            )
        if branch:
            api.create_branch(name, branch=branch, exist_ok=True)
        card = (folder / CARD).read_text(encoding="utf-8").replace(PLACE, name)
        files = {file: folder / file for file in MOST_BYTES.keys() - {CARD}}
        operations = [CommitOperationAdd(file, path) for file, path in sorted(files.items())]
        operations.append(CommitOperationAdd(CARD, card.encode()))
        commit = api.create_commit(name, operations, commit_message=message, revision=branch)
    return str(commit.commit_url)


def _download(name: str, file: str, revision: str) -> Path:
    """A file's place in the cache; one that is too large is not downloaded."""
    size = hf_hub_download(name, file, revision=revision, dry_run=True).file_size
    if size is None or size > MOST_BYTES[file]:
        told = "unknown size" if size is None else f"{size / 2**20:.0f} MiB"
        raise WeightsError(
            f"{name} has a {file} of {told}, and at most {MOST_BYTES[file] / 2**20:.0f} MiB are "
            "read; it is no model folder of endofm."
        )
    return Path(hf_hub_download(name, file, revision=revision))


def _refuse_strange(name: str, revision: str) -> None:
    """The cache makes paths of both, and none may lead out of it."""
    if name.count("/") != 1:
        raise WeightsError(f"{name!r} is no name on the Hugging Face Hub; those read owner/name.")
    if ".." in revision or revision.startswith("/") or "\\" in revision:
        raise WeightsError(f"{revision!r} is no branch, tag or commit; git allows no such name.")


def _refuse_other_models(name: str, folder: Path) -> None:
    """Says what a repository of another library holds; a newer format is refused by name."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{name} has a {CONFIG} that is not JSON ({error}).") from error
    if not isinstance(config, dict) or "format" not in config:
        kinds = config if isinstance(config, dict) else {}
        kind = kinds.get("architectures") or kinds.get("architecture") or kinds.get("model_type")
        what = kind[0] if isinstance(kind, list) else kind or "a model of another library"
        raise WeightsError(
            f"{name} is no model folder of endofm but holds {what} ({CONFIG} has no format "
            "number); download its weights and give the file to `endofm convert`, which says "
            "whether they fit."
        )
    _read_config(folder)


@contextlib.contextmanager
def _plainly(name: str, revision: str) -> Iterator[None]:
    """What goes wrong at the Hub, as one sentence with a way out."""
    try:
        yield
    except (HFValidationError, NETWORK_FAULT, ConnectionError, EntryNotFoundError) as error:
        raise WeightsError(_sentence(error, name, revision)) from error
    except ValueError as error:  # of the client, before anything is sent
        if "README.md" not in str(error):
            raise
        raise WeightsError(f"The Hub refuses the model card ({_short(error)}); mend it.") from error


def _sentence(error: Exception, name: str, revision: str) -> str:
    cause = error.__cause__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, HfHubHTTPError):
        error = cause  # the Hub did answer, and the cache doesn't help either
    match error:
        case HFValidationError():
            return f"{name!r} is no name on the Hugging Face Hub; those read owner/name."
        case GatedRepoError():
            return (
                f"{name} is open only to those its owner lets in; ask for access at "
                f"{constants.ENDPOINT}/{name}, then run `hf auth login`."
            )
        case RepositoryNotFoundError():
            return (
                f"The Hub shows no model {name}; mind the spelling, or, if it is private, run "
                "`hf auth login` (data sets and Spaces are no models)."
            )
        case RevisionNotFoundError():
            return (
                f"{name} has no revision {revision!r}; {constants.ENDPOINT}/{name}/tree/main lists "
                "its branches and tags."
            )
        case LocalEntryNotFoundError() | ConnectionError():
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it can't be reached"
            return (
                f"{name} (revision {revision}) is not whole in the cache {constants.HF_HUB_CACHE}, "
                f"and the Hub isn't asked: {why}; connect once, or give a local model folder."
            )
        case EntryNotFoundError():
            return f"{name} holds no model folder of endofm ({_short(error)})."
        case HfHubHTTPError():
            status = error.response.status_code
            return f"The Hub refuses {name} ({status}: {_short(error)}); try later, or log in anew."
        case _:
            return f"The Hub can't be reached for {name} ({_short(error)}); try again."


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).strip().rstrip(".")
