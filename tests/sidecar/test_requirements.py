"""What the probe says about a host that lacks something."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings.errors import FlowlakeError
from sidecar.probe import libbpf, requirements
from sidecar.probe.loader import Mode
from sidecar.probe.requirements import (
    check_btf,
    check_kernel,
    check_libbpf,
    check_object,
    check_privileges,
    checks,
    modes_to_try,
    require,
)


def status(*capabilities: int) -> str:
    """/proc/self/status of a process with these effective capabilities."""
    return f"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{sum(1 << number for number in capabilities):016x}\n"


@pytest.mark.parametrize(
    ("release", "ok"),
    [("6.1.0-28-cloud-amd64", True), ("5.12.0", True), ("5.11.22", False), ("4.18.0-553.el8", False), ("odd", False)],
)
def test_a_kernel_is_old_enough_or_named_with_what_to_use(release: str, ok: bool) -> None:
    check = check_kernel(release)
    assert (check.ok, check.detail) == (ok, f"Linux {release}")
    assert bool(check.remedy) is not ok


@pytest.mark.parametrize(
    ("capabilities", "ok", "detail"),
    [
        ((21,), True, "CAP_SYS_ADMIN"),
        ((38, 39), True, "CAP_BPF and CAP_PERFMON"),
        ((39,), False, "without CAP_PERFMON"),
        ((38,), False, "without CAP_BPF"),
        ((), False, "without CAP_BPF and CAP_PERFMON"),
    ],
)
def test_a_missing_capability_is_named(capabilities: tuple[int, ...], ok: bool, detail: str) -> None:
    check = check_privileges(status(*capabilities))
    assert (check.ok, check.detail) == (ok, detail)


def test_btf_may_come_from_a_file_that_exists(tmp_path: Path) -> None:
    there = tmp_path / "vmlinux.btf"
    there.touch()
    assert check_btf(there).ok
    missing = check_btf(tmp_path / "nowhere")
    assert not missing.ok
    assert "nowhere is not there" in missing.detail


def test_a_library_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "SONAME", "libbpf.so.99")
    check = check_libbpf()
    assert (check.ok, check.detail) == (False, "libbpf.so.99 is not installed")
    monkeypatch.setattr(libbpf, "SONAME", "libbpf.so.99")
    libbpf.library.cache_clear()
    with pytest.raises(libbpf.LibbpfMissing, match=r"libbpf\.so\.99 is not installed. Install libbpf"):
        libbpf.library()


def test_an_object_that_was_not_built_is_named_for_the_mode_that_needs_it(tmp_path: Path) -> None:
    (tmp_path / Mode.TP_BTF.object_name).touch()
    assert check_object(tmp_path, Mode.TP_BTF).ok
    check = check_object(tmp_path, None)
    assert (check.ok, check.remedy) == (False, "build it with: make -C bpf")
    assert check.detail == f"flowlake_raw.bpf.o not in {tmp_path}"


def test_the_first_thing_that_is_missing_ends_the_start_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FlowlakeError) as raised:
        require(tmp_path, tmp_path / "nowhere", None)
    assert "\n" not in str(raised.value)
    first = next(check for check in checks(tmp_path, tmp_path / "nowhere") if not check.ok)
    assert str(raised.value).startswith(f"cannot load the probe: {first.name}: {first.detail}. ")


def test_the_kernels_own_btf_is_tried_first_and_a_file_serves_raw_tracepoints_only() -> None:
    assert modes_to_try(None, None) == [Mode.TP_BTF, Mode.RAW_TRACEPOINT]
    assert modes_to_try(None, Path("/somewhere.btf")) == [Mode.RAW_TRACEPOINT]
    assert modes_to_try(Mode.TP_BTF, None) == [Mode.TP_BTF]
