"""The numpy dtypes against the header itself, as a C compiler lays it out."""

from __future__ import annotations

import re
import subprocess
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from sidecar.probe import abi

HEADER = Path(__file__).parent.parent.parent / "bpf" / "flowlake.h"

STRUCTS = {
    "flow_record": abi.FLOW_RECORD,
    "listener_record": abi.LISTENER_RECORD,
    "cgroup_record": abi.CGROUP_RECORD,
    "flowlake_counters": abi.COUNTERS,
    "half_open": abi.HALF_OPEN,
    "flowlake_settings": abi.SETTINGS,
}
ENUMS: dict[str, tuple[str, type[IntEnum] | type[abi.Flag]]] = {
    "flowlake_owner": ("OWNER_", abi.Owner),
    "flowlake_role": ("ROLE_", abi.Role),
    "flowlake_flag": ("FLAG_", abi.Flag),
    "flowlake_counter": ("COUNTER_", abi.Counter),
}
CONSTANTS = {
    "FLOWLAKE_COMM_LEN": abi.COMM_LEN,
    "FLOWLAKE_ADDR_LEN": abi.ADDR_LEN,
    "FLOWLAKE_PATH_LEN": abi.PATH_LEN,
    "FLOWLAKE_UNKNOWN": abi.UNKNOWN,
}


def bodies(kind: str) -> dict[str, str]:
    """Name and text between the braces of every struct or enum in the header, without its comments."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return dict(re.findall(rf"^{kind} (\w+) {{(.*?)^}};", text, re.DOTALL | re.MULTILINE))


def members(struct_body: str) -> list[str]:
    return re.findall(r"(\w+)(?:\[\w+\])*;", struct_body)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What a C compiler makes of the header: `struct`, `struct.member` and `struct.member size`, and every constant."""
    lines = []
    for struct, body in bodies("struct").items():
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct}));')
        for member in members(body):
            lines.append(f'printf("{struct}.{member} %zu\\n", offsetof(struct {struct}, {member}));')
            lines.append(f'printf("{struct}.{member}.size %zu\\n", sizeof(((struct {struct} *)0)->{member}));')
    names = [name for body in bodies("enum").values() for name in re.findall(r"(\w+) =", body)]
    lines += [f'printf("{name} %lld\\n", (long long)({name}));' for name in [*names, *CONSTANTS]]
    source = tmp_path_factory.mktemp("abi") / "abi.c"
    source.write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{\n'
        + "\n".join(lines)
        + "\n}\n"
    )
    program = source.with_suffix("")
    subprocess.run(["cc", "-Wall", "-Werror", str(source), "-o", str(program)], check=True)
    output = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def test_every_struct_of_the_header_has_its_dtype() -> None:
    assert set(bodies("struct")) == set(STRUCTS)


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_dtype_has_the_names_offsets_and_sizes_of_its_struct(struct: str, compiled: dict[str, int]) -> None:
    dtype = STRUCTS[struct]
    assert dtype.names == tuple(members(bodies("struct")[struct]))
    assert dtype.itemsize == compiled[struct]
    for name in dtype.names:
        field, offset = dtype.fields[name][:2]  # type: ignore[index]
        assert (offset, field.itemsize) == (compiled[f"{struct}.{name}"], compiled[f"{struct}.{name}.size"]), name


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_struct_has_no_holes_and_is_a_multiple_of_8_bytes(struct: str, compiled: dict[str, int]) -> None:
    sizes = [compiled[f"{struct}.{name}.size"] for name in members(bodies("struct")[struct])]
    assert sum(sizes) == compiled[struct]
    assert compiled[struct] % 8 == 0


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_number_is_signed_where_the_header_says_so(struct: str) -> None:
    for sign, name in re.findall(r"__([su])\d+ (\w+)", bodies("struct")[struct]):
        base = STRUCTS[struct].fields[name][0].base  # type: ignore[index]
        assert base.kind == {"s": "i", "u": "u"}[sign], name


@pytest.mark.parametrize("enum", ENUMS)
def test_an_enum_has_the_names_and_values_of_the_header(enum: str, compiled: dict[str, int]) -> None:
    prefix, mirrored = ENUMS[enum]
    names = re.findall(rf"{prefix}(\w+) =", bodies("enum")[enum])
    assert {member.name: int(member) for member in mirrored} == {name: compiled[prefix + name] for name in names}


def test_the_constants_are_the_headers(compiled: dict[str, int]) -> None:
    assert {name: compiled[name] % (1 << 32) for name in CONSTANTS} == CONSTANTS


def test_the_states_are_those_of_the_kernels_own_header() -> None:
    text = Path("/usr/include/linux/bpf.h").read_text()
    kernel = re.findall(r"BPF_TCP_(\w+)(?: = \d+)?,", text)[:12]
    assert [member.name for member in abi.TcpState] == kernel
    assert np.array(list(abi.TcpState)).tolist() == list(range(1, 13))
