import os
import subprocess
import sys

import pytest

ASK = (
    "import huggingface_hub.constants as c; from eval.hf_offline import go_offline; "
    "go_offline(); import datasets; print(c.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)"
)


@pytest.mark.parametrize(("online", "printed"), [(None, "True True"), ("1", "False False")])
def test_hugging_face_libraries_are_offline_unless_seme_online(
    online, printed, repository_root
):
    env = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    env |= {} if online is None else {"SEME_ONLINE": online}
    out = subprocess.run(
        [sys.executable, "-c", ASK],
        env=env,
        cwd=repository_root,
        capture_output=True,
        check=True,
    )
    assert out.stdout.decode().split("\n")[0] == printed


@pytest.fixture
def repository_root(request):
    return request.config.rootpath
