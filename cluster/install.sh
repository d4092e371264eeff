#!/usr/bin/env bash
# Put kdray's environment on a node of `ray up`, in ~/venv: Python 3.11 and the versions that the tests run with.
# Runs again on every `ray up` and every start of a node; does nothing where pyproject.toml and the lock are unchanged.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$(cat pyproject.toml requirements.lock cluster/install.sh | sha256sum)
if [ "$(cat ~/venv/.kdray 2>/dev/null || true)" != "$wanted" ]; then
    if ! [ -x ~/.uv/bin/uv ]; then
        # A fresh machine may still be updating itself: wait for its lock.
        python3 -m venv ~/.uv || {
            sudo apt-get -q -o DPkg::Lock::Timeout=600 update
            sudo apt-get -q -o DPkg::Lock::Timeout=600 install -y python3-venv
            python3 -m venv --clear ~/.uv
        }
        ~/.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
    fi
    # uv brings Python 3.11 where the machine has another, and loads PyTorch's 5 GB side by side.
    ~/.uv/bin/uv venv --quiet --clear --python 3.11 ~/venv
    ~/.uv/bin/uv pip install --quiet --python ~/venv/bin/python --constraint requirements.lock --editable '.[timm,gcp]'
    echo "$wanted" > ~/venv/.kdray
fi

# For `ray exec`, `ray attach` and the jobs' shells.
line='. ~/kdray/cluster/node.sh'
grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >> ~/.bashrc
