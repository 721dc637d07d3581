"""Convolutions on a GPU do not round, whoever asks for them; afterwards PyTorch is as it was."""

import threading

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import mamlpp
from mamlpp.diagnostics import diagnose
from mamlpp.precision import CONVOLUTIONS, full_precision
from tests.makers import noise_sampler, noise_trainer


class Watch(TorchDispatchMode):
    """Notes how convolutions may round when there is one."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        if "convolution" in str(operation):
            self.seen.append(CONVOLUTIONS.fp32_precision)
        return operation(*given, **(named or {}))


@pytest.fixture(params=["tf32", "ieee"])
def before(request):
    was = CONVOLUTIONS.fp32_precision
    CONVOLUTIONS.fp32_precision = request.param
    yield request.param
    CONVOLUTIONS.fp32_precision = was


def test_all_that_computes(before):
    trainer, sampler = noise_trainer("maml++"), noise_sampler()
    learner, task = trainer.learner, next(iter(sampler.sample(1)))
    for compute in (
        trainer.step,
        lambda: mamlpp.evaluate_tasks(learner, sampler, 2),
        lambda: learner.adapt(task.support_x, task.support_y)(task.query_x),
        lambda: learner.adapt(task.support_x, task.support_y, reading="queries")(task.query_x),
        lambda: diagnose(learner, sampler.sample(1)),
    ):
        with Watch() as watch:
            compute()
        assert set(watch.seen) == {"ieee"}
        assert CONVOLUTIONS.fp32_precision == before


def test_one_thread_leaves_while_another_is_inside(before):
    inside, leave, left, seen = threading.Event(), threading.Event(), threading.Event(), []

    def first():
        with full_precision():
            inside.set()
            leave.wait()
        left.set()

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with full_precision():
        leave.set()
        left.wait()
        seen.append(CONVOLUTIONS.fp32_precision)
    thread.join()
    assert seen == ["ieee"]
    assert CONVOLUTIONS.fp32_precision == before


def test_an_error_leaves_it_as_it_was(before):
    with pytest.raises(ValueError, match="on the way"), full_precision():
        raise ValueError("on the way")
    assert CONVOLUTIONS.fp32_precision == before
