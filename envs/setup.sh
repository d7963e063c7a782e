#!/bin/sh
# Makes .venv with exactly the packages of envs/requirements.txt, which hold for each Python named below; the first that is
# there is taken. Called by make; PYTHON and PIP_ARGS may be set:
#   make run PYTHON=/opt/python3.12/bin/python3.12
#   make run PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"   (PyTorch without CUDA, 2 GB less)
set -eu
cd "$(dirname "$0")/.."
pythons="3.11 3.12 3.13"

stop() {
    echo "envs/setup.sh: $1" >&2
    exit 1
}

number() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

needed="needed one of Python $pythons (make PYTHON=/path/to/python3.12)"
if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
    version=$(number "$python") || stop "found no $python; $needed"
else
    version=""
    for python in python3.11 python3.12 python3.13 python3; do
        version=$(number "$python") && break
    done
    [ -n "$version" ] || stop "found no Python; $needed"
fi
case " $pythons " in *" $version "*) ;; *) stop "found $python, which is Python $version; $needed" ;; esac
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian keeps these two in a package of their own
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing python$version-venv ..."
        { apt-get update && apt-get install --yes --no-install-recommends "python$version-venv"; } >/dev/null ||
            stop "found no ensurepip in $python, and apt-get could not install python$version-venv; needed: python$version-venv"
    else
        stop "found no ensurepip in $python; needed: apt-get install python$version-venv, as root"
    fi
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing the packages of envs/requirements.txt into .venv (once; some minutes) ..."
# shellcheck disable=SC2086  # PIP_ARGS is a list of words
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement envs/requirements.txt ${PIP_ARGS:-}
# `import oddlattice` works in this environment wherever it is called from
.venv/bin/python - <<'END'
import pathlib, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "oddlattice.pth").write_text(f"{pathlib.Path('workflow/scripts').resolve()}\n")
END
# the program `oddlattice`, and Snakemake with its commonest tracebacks as sentences; they work by their paths, too,
# without the environment being active
for program in oddlattice:oddlattice.command snakemake:oddlattice.command.checked_snakemake; do
    cat > ".venv/bin/${program%%:*}" <<END
#!/bin/sh
exec "\$(dirname "\$(readlink -f "\$0")")/python" -m ${program#*:} "\$@"
END
    chmod +x ".venv/bin/${program%%:*}"
done
# without this the first jobs would
.venv/bin/python -c 'from oddlattice.numerics.compiled import compile_all; compile_all()'
