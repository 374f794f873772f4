"""RAdam against torch's, and word embeddings of which only the used rows are trained."""

import pytest
import torch
from torch import nn

from smm4h.training.optim import RAdam, SparseRowEmbedding


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.9)])
def test_radam_has_the_numbers_of_torchs(weight_decay, betas):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(20, 30)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    idle = nn.Parameter(torch.ones(2))  # like a pooler that no head reads
    options = {"lr": 1e-2, "betas": betas, "eps": 1e-6, "weight_decay": weight_decay}
    our_optimizer = RAdam([*ours, idle], **options)
    their_optimizer = torch.optim.RAdam(theirs, decoupled_weight_decay=True, **options)
    schedules = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 300) for o in (our_optimizer, their_optimizer)]
    for _ in range(300):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) + p.detach()
            q.grad = p.grad.clone()
        for step in (our_optimizer, their_optimizer, *schedules):
            step.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=2e-6, rtol=0)
    assert torch.equal(idle, torch.ones(2))


def test_radam_skips_a_step_that_overflowed_in_fp16():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.ones(5)) for _ in range(2)]
    ours, theirs = RAdam([weights[0]], lr=0.1), torch.optim.RAdam([weights[1]], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(20):
        scale, gradient = scaler.scale(torch.ones(())), torch.randn(5)
        if step in (0, 3, 12):  # before there are moments, while only they are used, and later
            weights[0].grad = torch.full((5,), torch.inf)
        else:
            weights[0].grad, weights[1].grad = gradient * scale, gradient
            theirs.step()
        scaler.step(ours)
        scaler.update()
    torch.testing.assert_close(*weights)


def test_radam_resumes_from_its_saved_state():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(5)) for _ in range(2)]
    with torch.no_grad():
        weights[1].copy_(weights[0])
    gradients = torch.randn(20, 5)
    through, before = RAdam([weights[0]], lr=0.1), RAdam([weights[1]], lr=0.1)
    for step, gradient in enumerate(gradients):
        if step == 10:
            after = RAdam([weights[1]], lr=0.1)
            after.load_state_dict(before.state_dict())
            before = after
        for weight, optimizer in zip(weights, (through, before), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_rows_that_no_tweet_uses_need_no_optimizer(padding_idx):
    torch.manual_seed(0)
    whole = nn.Embedding(50, 4, padding_idx=padding_idx)
    plain = nn.Embedding.from_pretrained(whole.weight.detach().clone(), freeze=False, padding_idx=padding_idx)
    sparse = SparseRowEmbedding(whole, torch.tensor([0, 3, 7, 20, 49]))
    optimizers = [RAdam(part.parameters(), lr=0.1) for part in (plain, sparse)]
    for _ in range(12):
        ids = torch.tensor([0, 3, 7, 20, 49])[torch.randint(0, 5, (9,))]
        weights = torch.randn(9, 4)
        for part, optimizer in zip((plain, sparse), optimizers, strict=True):
            optimizer.zero_grad()
            (part(ids) * weights).sum().backward()
            optimizer.step()
    assert sum(p.numel() for p in sparse.parameters()) == 5 * 4
    assert torch.equal(sparse.state_dict()["weight"], plain.weight)
    sparse.eval()
    assert torch.equal(sparse(torch.arange(50)), plain(torch.arange(50)))
    loaded = SparseRowEmbedding(nn.Embedding(50, 4, padding_idx=padding_idx), torch.tensor([3, 7])).eval()
    loaded.load_state_dict(plain.state_dict())
    assert torch.equal(loaded(torch.arange(50)), plain.weight)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_clipping_within_the_optimizer_is_clipping_before_it(weight_decay):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(20, 30)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 1e-2, "eps": 1e-6, "weight_decay": weight_decay}
    our_optimizer = RAdam(ours, **options)
    their_optimizer = torch.optim.RAdam(theirs, decoupled_weight_decay=True, **options)
    for step in range(200):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) * 0.02 * (1 + 99 * (step % 7 == 0))  # most steps are not clipped
            q.grad = p.grad.clone()
        norm = nn.utils.clip_grad_norm_(theirs, 1.0)
        our_optimizer.clip = min(1.0, 1.0 / (norm.item() + 1e-6))
        our_optimizer.step()
        their_optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=2e-6, rtol=0)
