"""GPUs: what is said of those that torch can't use, and what is set before they are used."""

import pytest
import torch

from smm4h.models.predictors import best_precision
from smm4h.utils import devices
from smm4h.utils.errors import InputError


@pytest.fixture
def cudnn_attention():
    """Whether torch may use cuDNN's attention, asked anew at each call; restored after the test."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield torch.backends.cuda.cudnn_sdp_enabled
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_cudnn_attention_is_off_unless_the_environment_keeps_it(monkeypatch, cudnn_attention):
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "0")
    devices.prepare_gpu()
    assert cudnn_attention()
    monkeypatch.delenv("TORCH_CUDNN_SDPA_DEPRIORITIZED")
    devices.prepare_gpu()
    assert not cudnn_attention()


def test_new_tweets_are_not_predicted_on_the_cpu_in_silence(monkeypatch, cudnn_attention):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="can't use the GPU of this machine"):
        devices.default_device()
    assert devices.default_device(use_cpu=True) == "cpu"


def test_gpus_that_a_torch_without_cuda_leaves_unused_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "NVIDIA_GPUS", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert devices.unused_gpus_note() is None
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert "knows no CUDA, so the 2 GPUs will not be used" in devices.unused_gpus_note()


@pytest.mark.parametrize(
    ("capability", "bf16", "precision"),
    [((6, 0), False, "float32"), ((7, 5), False, "float16"), ((8, 0), True, "bfloat16")],
    ids=["P100", "T4", "A100"],
)
def test_a_gpu_computes_in_the_fastest_format_that_it_has(monkeypatch, capability, bf16, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert best_precision("cuda") == precision
