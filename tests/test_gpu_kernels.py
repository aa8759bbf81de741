"""bench/gpu_kernels.py: a measured profile beside other opinions of the same kernels."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gpu_kernels import compare, main, of_profile, of_rows

from blendsim.perf.profile import Profile
from blendsim.perf.store import load_profile, profiles_directory
from blendsim.specs import find_gpu, find_model

HEADER = "device,backend,kind,op,m,batch,ctx,latency_us"


@pytest.fixture
def profile() -> Profile:
    return load_profile(find_gpu("h200"), find_model("llama-3.1-8b"))


def test_a_profile_agrees_with_itself(profile: Profile) -> None:
    verdicts = compare(profile, of_profile(profile))
    assert [v.kernel for v in verdicts] == ["qkv", "o", "gate_up", "down", "decode"]
    assert all((v.median, v.low, v.high) == pytest.approx((1, 1, 1)) for v in verdicts)


def test_a_kernel_that_is_slower_by_more_than_a_tenth_is_far(profile: Profile) -> None:
    gemm = profile.gemm * np.array([1.09, 1.12, 0.95, 0.85, 1.0])
    slower = replace(profile, gemm=gemm)
    verdicts = {v.kernel: v for v in compare(slower, of_profile(profile))}
    near = {name: v.is_near for name, v in verdicts.items()}
    assert near == {"qkv": True, "o": False, "gate_up": True, "down": False, "decode": True}
    assert verdicts["o"].median == pytest.approx(1.12)


def test_rows_of_another_device_and_small_sizes_do_not_count(
    profile: Profile, tmp_path: Path
) -> None:
    at = int(np.flatnonzero(profile.tokens == 1024)[0])
    us = profile.gemm[at, 0] * 1e6
    rows = [
        f"h200_sxm,vllm,gemm,qkv,1024,,,{us / 1.05}",
        f"h200_sxm,vllm,gemm,qkv,256,,,{us}",  # below 512 tokens
        f"h200_sxm,trtllm,gemm,qkv,1024,,,{us * 9}",
        f"a100_sxm,vllm,gemm,qkv,1024,,,{us * 9}",
        "h200_sxm,vllm,gemm,lm_head,1024,,,5.0",
        "h200_sxm,vllm,decode_attention,any,,8,1024,9.0",  # 8 Ki tokens
    ]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    (found,) = compare(profile, of_rows(path, "h200_sxm", "vllm"))
    assert (found.kernel, found.points) == ("qkv", 1)
    assert found.median == pytest.approx(1.05)


def test_the_command_prints_a_row_a_kernel_and_fails_where_one_is_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(profiles_directory() / "h200" / "llama-3.1-8b" / "tp1")
    monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", place, place])
    main()
    assert capsys.readouterr().out.count("| ok |") == 5
    other = str(profiles_directory() / "h100" / "llama-3.1-8b" / "tp1")
    monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", other, place])
    with pytest.raises(SystemExit):  # an H100's memory is slower
        main()
    assert "| decode | 38 | 1.3" in capsys.readouterr().out
