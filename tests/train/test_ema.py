"""The weight average follows the formula and its state round-trips."""

import torch
from torch import nn

from kdray.train.ema import Ema


def test_average_follows_its_formula_and_copies_integer_buffers() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(net, decay=0.5)
    expected = net[0].weight.detach().clone()
    for step in range(1, 8):
        with torch.no_grad():
            net[0].weight += 1.0
            net[1].num_batches_tracked += 1
        ema.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net[0].weight.detach()
    shadow = dict(ema.shadow.named_parameters())["0.weight"]
    torch.testing.assert_close(shadow, expected)
    assert int(ema.shadow[1].num_batches_tracked) == 7
    again = Ema(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), decay=0.5)
    again.load_state_dict(ema.state_dict())
    assert again.updates == 7
    torch.testing.assert_close(dict(again.shadow.named_parameters())["0.weight"], shadow)
