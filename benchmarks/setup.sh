#!/usr/bin/env bash
# One environment a peer under .bench/, so that no peer changes another's packages.
#
# torch, numpy, scipy and tqdm come from the project's own .venv through a .pth file:
# everybody multiplies with the very same torch. The peers are installed with --no-deps
# and their small requirements by name, under a constraint that pins torch, so that none
# of them can bring torchvision or a CUDA build. A peer that cannot be installed is left
# out, and `make bench` reports it as absent.
set -uo pipefail
cd "$(dirname "$0")/.."

BASE=.venv/bin/python
test -x "$BASE" || { echo "no .venv: run \`make setup\` first" >&2; exit 1; }
SHARED=$("$BASE" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
LIB=$("$BASE" -c 'import sys; print("lib/python%d.%d/site-packages" % sys.version_info[:2])')
mkdir -p .bench
"$BASE" -c 'import torch; print("torch==" + torch.__version__.split("+")[0])' \
  > .bench/constraints.txt || exit 1

absent=()

# peer NAME PACKAGE...: what `pip install --no-deps` gets, and no more.
peer() {
  local name=$1 wanted
  shift
  wanted="$*"
  local venv=.bench/$name
  if [[ "$(cat "$venv/.installed" 2>/dev/null)" == "$wanted" ]]; then
    echo "$name: already there"
    return
  fi
  rm -rf "$venv"
  if "$BASE" -m venv "$venv" && "$venv/bin/python" -m pip install --quiet --no-deps \
    --disable-pip-version-check ${PIP_ARGS:-} -c .bench/constraints.txt "$@"; then
    # Only now, so that pip neither saw nor touched the shared packages.
    echo "$SHARED" > "$venv/$LIB/shared.pth"
    echo "$wanted" > "$venv/.installed"
    echo "$name: installed"
  else
    rm -rf "$venv"
    absent+=("$name")
  fi
}

peer pyhessian PyHessian==0.1
peer curvlinops curvlinops-for-pytorch==3.0.1 'backpack-for-pytorch>=1.6' 'einops>=0.8' \
  'einconv>=0.1' 'linear_operator>=0.6' 'opt-einsum>=3.4' 'unfoldNd>=0.2' 'tqdm>=4.66'
peer cola cola-ml==0.0.7 cola-plum-dispatch==0.1.4 'optree>=0.13' 'tqdm>=4.66'
peer hessian_eigenthings hessian-eigenthings==1.0.0a5 'tqdm>=4.66'
# The one peer that brings its own arithmetic; numpy and scipy are shared like torch.
peer jax jax==0.10.2 jaxlib==0.10.2 'ml_dtypes>=0.5' 'opt_einsum>=3.4'

if ((${#absent[@]})); then
  echo "not installed, and absent from the results: ${absent[*]}" >&2
fi
