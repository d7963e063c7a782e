"""Words of a job: in its log, and plain where a person can act on them."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def run(log: Path, body: str) -> tuple[int, str]:
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\nfrom oddlattice.process.logs import log_to\n"
    code += f"log_to({str(log)!r})\n"
    done = subprocess.run([sys.executable, "-c", code + body], capture_output=True, text=True, check=False)
    assert done.stdout == done.stderr == ""
    return done.returncode, log.read_text()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    code, said = run(tmp_path / "a/b.log", "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    assert code != 0
    assert said == (
        "The results cannot be written: No space left on device. Nothing half-written is kept; run again later.\n"
    )


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    code, said = run(tmp_path / "c.log", "print('before', flush=True)\n1 / 0")
    assert code != 0 and said.startswith("before") and "ZeroDivisionError" in said and "Traceback" in said
