"""The same with PyTorch, worker processes and a stream that can be resumed: `python examples/train_membranes_torch.py set.json`.

Needs `pip install 'emporter[torch]'`. Stopped at any time and started again, it goes on after the last batch it learned from.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emporter.torch import BlockDataset


def model() -> nn.Module:
    """Two convolutions that keep the shape: (N, 1, z, y, x) to one number for each voxel."""
    return nn.Sequential(nn.Conv3d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv3d(16, 1, 1))


def pair(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model is fed, and what it should say."""
    return (batch["image"].float().unsqueeze(1) - 128) / 64, (batch["labels"].long() > 0).float().unsqueeze(1)


def overlap(said: torch.Tensor, truth: torch.Tensor) -> float:
    """Intersection over union."""
    seen, there = said > 0, truth > 0.5
    return float((seen & there).sum() / (seen | there).sum().clamp(min=1))


def train(path: Path, stack: str | None, steps: int, workers: int, kept: Path | None) -> dict[str, float]:
    """Learn from the train boxes, measure on the validation boxes."""
    torch.manual_seed(0)
    stream = BlockDataset.from_manifest(path, stack).stream(batch_size=8, seed=0, drop_last=True)
    held_out = BlockDataset.from_manifest(path, stack, "validation")
    judged, truth = pair(torch.utils.data.default_collate(held_out.__getitems__(range(len(held_out)))))
    net = model()
    descent = torch.optim.Adam(net.parameters(), lr=0.01)
    done = 0
    if kept is not None and kept.exists():
        state = torch.load(kept)
        net.load_state_dict(state["net"])
        descent.load_state_dict(state["descent"])
        stream.load_state_dict(state["stream"])
        done = state["done"]
    with torch.no_grad():
        before = overlap(net(judged), truth)
    while done < steps:
        for batch in stream.loader(num_workers=workers):
            images, wanted = pair(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(net(images), wanted)
            descent.zero_grad()
            loss.backward()
            descent.step()
            done += 1
            if kept is not None:
                told = {"net": net.state_dict(), "descent": descent.state_dict(), "stream": stream.state_dict(), "done": done}
                torch.save(told, kept)
            if done == steps:
                break
    with torch.no_grad():
        after = overlap(net(judged), truth)
    print(f"overlap with the truth: before {before:.2f}, after {after:.2f}")
    return {"before": before, "after": after, "done": done}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Learn to see membranes from a training set, with PyTorch.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="FILE.pt", help="where the state is kept, and taken from again")
    parser.add_argument("--stack", help="its folder, or the URL of a block-server; else as for every emporter command")
    chosen = parser.parse_args()
    train(chosen.manifest, chosen.stack, chosen.steps, chosen.workers, chosen.keep)


if __name__ == "__main__":
    main()
