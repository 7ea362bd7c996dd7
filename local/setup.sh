#!/usr/bin/env bash
# Sets up .venv (Python packages, in the versions of constraints.txt) and tools/espnet (the
# ESPnet tree with the scripts that the recipes call). It does only what is missing, so
# running it again is quick.
#
#   local/setup.sh                       everything
#   ESPNET_ROOT=/path local/setup.sh     use that ESPnet checkout's scripts
#   local/setup.sh --espnet-tree         only tools/espnet, with the python3 on the PATH
#                                        (for an existing ESPnet environment; nothing else
#                                        is needed in a copy made by `birq recipes`)
set -euo pipefail
case "${1:-}" in
    -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
espnet_version=202611

fail() { echo "setup: error: $*" >&2; exit 1; }
step() { echo "setup: $*" >&2; }

case "${1:-}" in
    ""|--espnet-tree) ;;
    *) fail "unknown option '$1'; see --help" ;;
esac

case "${PWD}" in
    *[[:space:]]*) fail "'${PWD}' has a space in it, which Kaldi's and ESPnet's scripts" \
        "cannot handle: move the checkout" ;;
esac

find_uv() {  # prints the path of a working uv; fetches one into tools/uv if needed
    local uv
    for uv in uv tools/uv/bin/uv; do
        if "${uv}" --version >/dev/null 2>&1; then echo "${uv}"; return; fi
    done
    step "fetching uv into tools/uv"
    python3 -m pip install --quiet --target tools/uv uv >&2 ||
        fail "could not install uv: install it (package 'uv') or pip for python3"
    echo tools/uv/bin/uv
}

find_python() {  # prints a Python that ESPnet accepts; $1 is uv
    local python
    for python in python3.12 python3.13 python3 \
        "${PYENV_ROOT:-${HOME}/.pyenv}"/versions/3.1[23].*/bin/python3 \
        "$("$1" python find --no-python-downloads '>=3.12,<3.14' 2>/dev/null || true)"
    do
        # Try each, since a pyenv shim on the PATH may fail to run.
        if [ -n "${python}" ] && "${python}" -c \
            'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' \
            2>/dev/null
        then
            echo "${python}"; return
        fi
    done
    fail "no Python 3.12 or 3.13 on the PATH, in pyenv or in uv: install one" \
        "(for example 'uv python install 3.12' or 'pyenv install 3.12')"
}

make_venv() {
    # The stamp identifies the installed requirements; if they change, install again.
    local stamp=.venv/.birq_setup want uv python
    want=$(cat setup.cfg constraints.txt | cksum)
    [ "$(cat "${stamp}" 2>/dev/null)" != "${want}" ] || return 0
    uv=$(find_uv)
    if ! .venv/bin/python -c '' 2>/dev/null; then
        python=$(find_python "${uv}")
        step "creating .venv with ${python}"
        "${uv}" venv --quiet --clear --seed --python "${python}" .venv
    fi
    step "installing the Python packages (the first time takes minutes: about 5 GB)"
    "${uv}" pip install --quiet --python .venv/bin/python \
        --constraint constraints.txt --editable '.[decode,demo,test]'
    echo "${want}" > "${stamp}"
    tell_of_driver
}

# PyTorch's build for CUDA 13 needs driver 580, that for CUDA 12 driver 525 (NVIDIA's table of
# "CUDA minor version compatibility").
tell_of_driver() {
    local cuda driver
    cuda=$(.venv/bin/python -c 'import torch; print(torch.version.cuda or "")')
    [ -n "${cuda}" ] || return 0
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) ||
        driver=
    step "this PyTorch is built for CUDA ${cuda}, GPUs need an NVIDIA driver of version" \
        "$([ "${cuda%%.*}" -ge 13 ] && echo 580 || echo 525) or later; here is" \
        "${driver:-no GPU}. Another build: docs/tutorial_cluster.md"
}

# ESPnet's source distribution lacks the links to directories, without which none of its
# recipes runs. The originals are in TEMPLATE/asr1.
restore_links() {
    local dir name
    for dir in "$1"/egs2/*/*/; do
        [ -e "${dir}path.sh" ] || continue
        for name in utils steps scripts pyscripts; do
            [ -e "${dir}${name}" ] || ln -s "../../TEMPLATE/asr1/${name}" "${dir}${name}"
        done
    done
}

make_espnet_tree() {
    local python=$1 tmp=tools/espnet.tmp
    if [ -n "${ESPNET_ROOT:-}" ]; then
        [ -e "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/asr.sh" ] || fail "ESPNET_ROOT=" \
            "${ESPNET_ROOT} has no egs2/TEMPLATE/asr1/asr.sh: give an ESPnet checkout"
        mkdir -p tools
        if [ -L tools/espnet ] || [ ! -e tools/espnet ]; then
            ln -sfn "$(cd "${ESPNET_ROOT}" && pwd)" tools/espnet
        elif [ ! tools/espnet -ef "${ESPNET_ROOT}" ]; then
            fail "tools/espnet is an unpacked ESPnet: remove it to use ${ESPNET_ROOT}"
        fi
        return
    fi
    [ ! -e tools/espnet ] || return 0
    step "fetching the ESPnet ${espnet_version} source distribution into tools/espnet"
    rm -rf "${tmp}" && mkdir -p "${tmp}"
    "${python}" -m pip download --quiet --no-deps --no-binary espnet \
        --dest "${tmp}" "espnet==${espnet_version}" || fail "could not download it: set" \
        "ESPNET_ROOT to an ESPnet ${espnet_version} checkout"
    tar -xzf "${tmp}"/espnet-*.tar.gz -C "${tmp}"
    restore_links "${tmp}/espnet-${espnet_version}"
    mv "${tmp}/espnet-${espnet_version}" tools/espnet
    rm -rf "${tmp}"
}

# A copy made by `birq recipes` has no setup.cfg: the package is installed already.
if [ "${1:-}" = --espnet-tree ] || [ ! -e setup.cfg ]; then
    make_espnet_tree python3
else
    make_venv
    make_espnet_tree .venv/bin/python
fi
