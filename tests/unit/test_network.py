import pytest
import torch

import mamlpp
from mamlpp.network import BatchNorm, ConvNet
from mamlpp.task_result import as_statistics


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 84, 84), (2, 17, 30)])
def test_any_size_and_number_of_channels(pooling, shape):
    network = ConvNet(shape, ways=7, filters=3, pooling=pooling)
    assert network(torch.rand(5, *shape)).shape == (5, 7)


def test_the_network_of_the_papers():
    network = mamlpp.MetaLearner(mamlpp.RECIPES["maml"], (1, 28, 28), ways=20).network
    convolutions = 64 * 9 * (1 + 64 + 64 + 64)
    assert sum(p.numel() for p in network.parameters()) == convolutions + 4 * 2 * 64 + 65 * 20
    assert [block.conv.stride for block in network.blocks] == [(1, 1)] * 4
    network = ConvNet((1, 28, 28), ways=20, pooling="stride")
    assert [block.conv.stride for block in network.blocks] == [(2, 2)] * 4


def test_xavier_uniform_weights_and_zero_biases():
    network = ConvNet((1, 28, 28), ways=20)
    weight = network.blocks[1].conv.weight.detach()
    bound = (6 / (64 * 9 + 64 * 9)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert (network.head.bias == 0).all()


def test_batch_norm_takes_the_statistics_it_is_told():
    norm, x, other = BatchNorm(3), torch.rand(4, 3, 5, 5), torch.rand(6, 3, 5, 5) * 7 - 2
    own = norm(x)
    torch.testing.assert_close(own.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    collect = []
    assert torch.equal(norm(x, step=2, collect=collect), own)
    [(layer, step, mean, variance)] = collect
    assert (layer, step) == (norm, 2)
    torch.testing.assert_close(own, norm(x, statistics={norm: (mean, variance)}))
    expected = torch.nn.functional.batch_norm(
        x, other.mean((0, 2, 3)), other.var((0, 2, 3), correction=0), training=False
    )
    given = {norm: (other.mean((0, 2, 3)), other.var((0, 2, 3), correction=0))}
    torch.testing.assert_close(norm(x, statistics=given), expected)
    norm.eval()
    assert torch.equal(norm(x), own)  # train() and eval() change nothing


def test_with_given_statistics_no_image_depends_on_another():
    network, collect = ConvNet((1, 16, 16), ways=3, filters=4), []
    images = torch.rand(5, 1, 16, 16)
    network(torch.rand(3, 1, 16, 16), collect=collect)
    statistics = as_statistics(collect)
    logits = network(images, statistics=statistics)
    alone = torch.cat([network(image[None], statistics=statistics) for image in images])
    torch.testing.assert_close(logits, alone, atol=1e-6, rtol=1e-5)
    assert (network(images)[:1] - network(images[:2])[:1]).abs().max() > 1e-3


def test_too_small_images():
    with pytest.raises(mamlpp.InputError, match="15x28 are too small to be halved 4 times"):
        ConvNet((1, 15, 28), ways=5)
