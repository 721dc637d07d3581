"""What a caller has set for torch changes no training, and no training changes what it has set."""

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import mamlpp
from mamlpp.diagnostics import diagnose
from mamlpp.engine import definition_result
from tests.makers import SHAPE, WAYS, noise_sampler, noise_trainer


@contextlib.contextmanager
def setting(put, get, value):
    before = get()
    put(value)
    try:
        yield
        assert get() == value, "a library does not change its caller's settings"
    finally:
        put(before)


def anything():
    """A training, and what it leads to, as numbers."""
    trainer = noise_trainer("maml++", epochs=1)
    torch.manual_seed(1)
    run = trainer.fit()
    result = mamlpp.evaluate_tasks(run.learner, noise_sampler(seed=1), 3)
    batch = noise_sampler(seed=2).sample(1)
    task = next(iter(batch))
    logits = run.learner.adapt(task.support_x, task.support_y)(task.query_x)
    norm = diagnose(run.learner, batch).meta_norm
    scores = *run.history.column("loss"), result.accuracy, result.loss
    return list(run.learner.state_dict().values()), scores, (logits.sum().item(), norm)


SETTINGS = {
    "float64": lambda: setting(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "another device": lambda: torch.device("meta"),
    "two threads": lambda: setting(torch.set_num_threads, torch.get_num_threads, 2),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic": lambda: setting(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled, True
    ),
}


@pytest.fixture(scope="module")
def expected():
    return anything()


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_same_bit_for_bit(name, expected):
    with SETTINGS[name]():
        tensors, scores, others = anything()
    assert all(map(torch.equal, tensors, expected[0]))
    assert scores == expected[1]
    assert others == pytest.approx(expected[2], rel=1e-4)  # They use the caller's threads.


def test_a_training_leaves_torch_as_it_was():
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    noise_trainer(epochs=1).fit()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), torch.is_grad_enabled())


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no sessions to share among")
def test_a_session_of_its_own_keeps_its_priority():
    ask = "from mamlpp.engine import keep_priority; keep_priority(); "
    ask += "print(open('/proc/self/autogroup', encoding='ascii').read())"
    done = subprocess.run(
        ["nice", "-n", "7", sys.executable, "-c", ask], start_new_session=True, text=True,
        capture_output=True, check=True, cwd=Path(mamlpp.__file__).parents[1],
    )  # fmt: skip
    assert done.stdout.split()[-1] == str(min(os.nice(0) + 7, 19))


def test_learners_made_in_several_threads_have_the_weights_of_their_seeds():
    recipe = mamlpp.RECIPES["maml++"].with_(filters=4)

    def make(seed):
        learner = mamlpp.MetaLearner(recipe, SHAPE, WAYS, seed)
        definition_result(learner)
        return learner.network.head.weight

    expected = [mamlpp.MetaLearner(recipe, SHAPE, WAYS, i).network.head.weight for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(make, range(8)))
    assert all(map(torch.equal, found, expected))
