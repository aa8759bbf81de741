"""Public traces: where they are, under which licence, whom to cite, and how to get them.

A checksum stands here only where the bytes were checked against it; a source without one is fetched
all the same, and its SHA-256 should then be noted beside results made from it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blendsim.errors import InputError, Unavailable, UnknownName
from blendsim.files import replacing, sha256

_TIMEOUT = 30.0  # seconds without a byte


class Source(NamedTuple):
    """One file of a public trace."""

    name: str
    url: str
    format: str  # the reader's name
    licence: str
    cite: str
    about: str
    sha256: str | None = None  # of the bytes at `url`


_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/b469a113cedca53ddc3bdea71a143dc4b7d8700c/data"
_AZURE_2024 = "https://azurepublicdatasettraces.blob.core.windows.net/azurellminfererencetrace"
_BURSTGPT = "https://github.com/HPMLL/BurstGPT/releases/download/v1.2"
_MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/3b5a594133958449a1feaf1c9e0fc1b553e34a28/FAST25-release"
_BAILIAN = "https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon/raw/main"
_NANOFLOW = "https://raw.githubusercontent.com/efeslab/Nanoflow/d6b381e58110a8b5d08cfabd4a55c0d5d0ebef57/datasets/traces"

_SPLITWISE = "Patel et al., Splitwise, ISCA 2024"
_DYNAMO = "Stojkovic et al., DynamoLLM, HPCA 2025"
_WANG = "Wang et al., BurstGPT, KDD 2025"
_QIN = "Qin et al., Mooncake, FAST 2025"
_CC, _APACHE = "CC-BY-4.0", "Apache-2.0"


def _bailian(kind: str, file: str, about: str) -> Source:
    return Source(
        f"bailian-{kind}",
        f"{_BAILIAN}/{file}",
        "bailian-jsonl",
        _APACHE,
        "Wang et al., KVCache Cache in the Wild, arXiv 2506.02634",
        about,
    )


CATALOG: tuple[Source, ...] = (
    Source(
        "azure-2023-code",
        f"{_AZURE}/AzureLLMInferenceTrace_code.csv",
        "azure-csv",
        _CC,
        _SPLITWISE,
        "8,819 requests of a code completion service, one hour",
        "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
    ),
    Source(
        "azure-2023-conv",
        f"{_AZURE}/AzureLLMInferenceTrace_conv.csv",
        "azure-csv",
        _CC,
        _SPLITWISE,
        "19,366 requests of a conversation service, one hour",
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
    ),
    Source(
        "azure-2024-code",
        f"{_AZURE_2024}/AzureLLMInferenceTrace_code_1week.csv",
        "azure-csv",
        _CC,
        _DYNAMO,
        "one week of a code completion service, May 2024",
    ),
    Source(
        "azure-2024-conv",
        f"{_AZURE_2024}/AzureLLMInferenceTrace_conv_1week.csv",
        "azure-csv",
        _CC,
        _DYNAMO,
        "one week of a conversation service, May 2024",
    ),
    *(
        Source(
            f"burstgpt-{part}",
            f"{_BURSTGPT}/BurstGPT_{part}.csv",
            "burstgpt-csv",
            _CC,
            _WANG,
            about,
        )
        for part, about in (
            (1, "ChatGPT and GPT-4 calls of a campus, months 1 and 2, failed ones included"),
            (2, "the same, months 3 and 4"),
            (3, "the same, 110 later days"),
        )
    ),
    Source(
        "mooncake-conversation",
        f"{_MOONCAKE}/traces/conversation_trace.jsonl",
        "mooncake-jsonl",
        _APACHE,
        _QIN,
        "12,031 chat requests with prompt block hashes, one hour sampled",
        "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
    ),
    Source(
        "mooncake-toolagent",
        f"{_MOONCAKE}/traces/toolagent_trace.jsonl",
        "mooncake-jsonl",
        _APACHE,
        _QIN,
        "23,608 tool and agent requests with prompt block hashes, one hour sampled",
    ),
    Source(
        "mooncake-synthetic",
        f"{_MOONCAKE}/traces/synthetic_trace.jsonl",
        "mooncake-jsonl",
        _APACHE,
        _QIN,
        "3,993 requests made from public long-context sets, prompt block hashes",
        "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
    ),
    Source(
        "mooncake-arxiv",
        f"{_MOONCAKE}/arxiv-trace/mooncake_trace.jsonl",
        "mooncake-jsonl",
        _APACHE,
        _QIN,
        "the older single-file release, prompt block hashes",
    ),
    _bailian("chat", "qwen_traceA_blksz_16.jsonl", "two hours of a Qwen service for consumers"),
    _bailian("business", "qwen_traceB_blksz_16.jsonl", "two hours of a Qwen service for companies"),
    _bailian("coder", "qwen_coder_blksz_16.jsonl", "a Qwen coder service"),
    _bailian("thinking", "qwen_thinking_blksz_16.jsonl", "a Qwen reasoning service"),
    Source(
        "sharegpt-lengths",
        f"{_NANOFLOW}/sharegpt.csv",
        "azure-csv",
        _APACHE,
        "Zhu et al., NanoFlow, OSDI 2025",
        "58,787 first turns of ShareGPT conversations, lengths only, Llama-2 tokens",
        "4738e04a0377c192e5d46e0f050a9b64a07449310c46b28e93a3742ecc89d0f7",
    ),
)


def find(name: str, catalog: Sequence[Source] = CATALOG) -> Source:
    """The source called `name`."""
    for source in catalog:
        if source.name == name:
            return source
    raise UnknownName("trace", name, [source.name for source in catalog])


def fetch(name: str, directory: Path, catalog: Sequence[Source] = CATALOG) -> Path:
    """Download a public trace into `directory` and return its path.

    A file that is already there and has the right checksum is kept. A download appears under its
    name only when it is complete and its checksum is right.
    """
    source = find(name, catalog)
    path = directory / source.url.rpartition("/")[2]
    if source.sha256 is not None and path.is_file() and sha256(path) == source.sha256:
        return path
    with replacing(path) as temporary:
        _download(source, temporary)
        if source.sha256 is not None and (found := sha256(temporary)) != source.sha256:
            raise InputError(
                f"{source.url}: arrived with SHA-256 {found[:16]}…, expected "
                f"{source.sha256[:16]}…; nothing was stored, try again or give a local copy"
            )
    return path


def _download(source: Source, path: Path) -> None:
    # Imported here: TLS and HTTP cost start-up time that only a download should pay.
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(source.url, timeout=_TIMEOUT) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            length = answer.headers.get("Content-Length")
            if length is not None and file.tell() != int(length):
                raise EOFError(f"{file.tell():,} of {int(length):,} bytes came")
    except HTTPError as error:
        error.close()
        raise _unavailable(source, f"the server answered {error.code} {error.reason}") from error
    except URLError as error:
        raise _unavailable(source, f"no connection ({error.reason})") from error
    except (OSError, EOFError, HTTPException) as error:
        raise _unavailable(source, f"the download broke off ({error})") from error


def _unavailable(source: Source, why: str) -> Unavailable:
    return Unavailable(
        f"{source.name}: cannot be fetched from {source.url}: {why}; where there is no network, "
        "download it elsewhere and give the local file to --trace"
    )
