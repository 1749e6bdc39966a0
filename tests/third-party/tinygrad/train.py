"""Trains two small networks with tinygrad and prints what came of it as one JSON object.

The data are made here from fixed seeds with numpy, and so are the weights that training begins with, so
that the numbers depend on nothing but the device that tinygrad computes on (its environment variable DEV).
"""

import json
import sys
import time

import numpy as np
from tinygrad import Context, Device, Tensor, TinyJit
from tinygrad.nn.optim import SGD, Adam


def tensor(array):
    return Tensor(array.astype(np.float32)).realize()


def weights(random, *shape):
    """Uniform, in a range that depends on a unit's number of inputs, as layers usually begin."""
    bound = 1 / np.sqrt(np.prod(shape[1:]))
    return tensor(random.uniform(-bound, bound, shape))


class Perceptron:
    """Tells the three arms of a spiral apart."""

    name = "two-layer perceptron"

    def __init__(self):
        random = np.random.default_rng(1)
        count, arms, units = 384, 3, 48
        label = np.arange(count) % arms
        radius = random.uniform(0.1, 1.0, count)
        angle = radius * 4 + label * 2 * np.pi / arms + random.normal(0, 0.1, count)
        self.x = tensor(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))
        self.y = Tensor(label.astype(np.int32)).realize()
        self.first = weights(random, units, 2)
        self.bias = tensor(random.uniform(-1, 1, units))
        self.second = weights(random, arms, units)
        self.optimiser = Adam([self.first, self.bias, self.second], lr=0.02)

    def forward(self):
        return (self.x @ self.first.T + self.bias).relu() @ self.second.T


class Convolution:
    """Tells horizontal, vertical and diagonal bars in noisy images apart."""

    name = "small convolution"

    def __init__(self):
        random = np.random.default_rng(2)
        count, side, kinds = 96, 12, 3
        label = np.arange(count) % kinds
        images = random.normal(0, 0.3, (count, 1, side, side))
        for image, kind in zip(images, label):
            at = random.integers(2, side - 2)
            for i in range(side):
                y, x = [(at, i), (i, at), (i, (i + at) % side)][kind]
                image[0, y, x] += 1
        self.x = tensor(images)
        self.y = Tensor(label.astype(np.int32)).realize()
        self.first = weights(random, 6, 1, 3, 3)
        self.second = weights(random, 8, 6, 3, 3)
        self.last = weights(random, kinds, 8 * 3 * 3)
        self.optimiser = SGD([self.first, self.second, self.last], lr=0.1, momentum=0.9)

    def forward(self):
        x = self.x.conv2d(self.first).relu().max_pool2d()
        x = x.conv2d(self.second).relu()
        return x.flatten(1) @ self.last.T


def train(network, steps):
    model = network()

    @TinyJit
    def step():
        with Context(TRAINING=1):
            model.optimiser.zero_grad()
            loss = model.forward().sparse_categorical_crossentropy(model.y)
            loss.backward()
            return loss.realize(*model.optimiser.schedule_step())

    started = time.perf_counter()
    losses = [step().item() for _ in range(steps)]
    took = time.perf_counter() - started
    accuracy = (model.forward().argmax(1) == model.y).mean().item()
    return {"network": model.name, "losses": losses, "accuracy": accuracy, "seconds": took}


if __name__ == "__main__":
    count = int(sys.argv[1])
    results = [train(network, count) for network in (Perceptron, Convolution)]
    print(json.dumps({"device": Device.DEFAULT, "networks": results}))
