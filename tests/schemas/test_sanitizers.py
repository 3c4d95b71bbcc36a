"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer, as a program of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from skipping import missing
from wire_samples import HEADER, sample_columns

import schemas
from schemas.decode import decode_message
from schemas.flow_batch import encode_flow_batch
from schemas.native import FieldTable
from schemas.wire import CURRENT, Kind

ROUNDS = 40_000
FLOWS = 4
WIDTHS = {Kind.BOOLEAN: 1, Kind.ENUM: 1, Kind.INT: 4, Kind.LONG: 8, Kind.ADDRESS: 16}


def build(tmp_path: Path) -> Path:
    # Not clang: its runtime is in a package of its own (libclang-rt-14-dev), gcc's comes with it (libgcc-12-dev).
    gcc = shutil.which("gcc")
    if gcc is None:
        missing("the sanitizers need gcc")
    program = tmp_path / "fuzz"
    source = Path(__file__).with_name("flow_codec_fuzz.c")
    flags = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=all", f"-I{Path(schemas.__file__).parent}"]
    done = subprocess.run([gcc, *flags, "-o", program, source], capture_output=True, text=True)
    if "cannot find" in done.stderr:
        missing("the sanitizers need gcc's libasan and libubsan (package libgcc-12-dev)")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.timeout(120)
def test_no_damage_to_a_message_makes_the_codec_touch_a_byte_that_is_not_its_own(tmp_path: Path) -> None:
    table = FieldTable(CURRENT.flow_fields)
    message = decode_message(encode_flow_batch(HEADER, sample_columns(FLOWS, seed=3)))
    flows = message.value[message.flows_at :]
    plan = np.array([len(table.array), table.least_row, table.longest_row, FLOWS, len(flows)], np.int64)
    widths = np.array([WIDTHS[field.kind] for field in CURRENT.flow_fields], np.int64)
    case = tmp_path / "case"
    case.write_bytes(plan.tobytes() + table.array.tobytes() + widths.tobytes() + flows)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([build(tmp_path), case, str(ROUNDS)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    good, bad = map(int, done.stdout.split())
    assert good + bad == ROUNDS
    assert good > ROUNDS // 16
    assert bad > ROUNDS // 2
