"""Where the attention of a subject's word peaks, on drawn pictures whose layout is known.

Each picture is encoded and made noisy at several timesteps; the maps of the word are averaged over the heads and over
the layers of the finest cross-attention resolution.  A peak counts if the part that the word names covers at least
half of that cell (or, where it covers no cell by half, the cell that it covers most).
"""

from pathlib import Path

import numpy as np
import torch

from model import Model, keep, parser
from nets import share
from attention import use_plain_attention
from diffusion import new_scheduler
from labels import noun_places
from pictures import load_pictures, load_records, shard_paths

TIMES = (200, 400, 600, 800)


@torch.no_grad()
def main() -> None:
    p = parser(__doc__)
    p.add_argument('--pictures', type=Path, nargs='+', required=True, help='drawn shards of seeds the model never saw')
    p.add_argument('--count', type=int, default=200)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model, records = Model(a.model), load_records(a.pictures)
    pictures = load_pictures(a.pictures)
    masks = [np.fromfile(path.with_suffix('.masks'), np.uint8).reshape(-1, 3, 16, 16) for path in shard_paths(a.pictures)]
    masks = np.concatenate(masks).astype(np.float32) / 255
    ids = model.tokenizer([r['caption'] for r in records]).input_ids
    places = noun_places(model.tokenizer, records, ids)[:, 0]
    rows = [i for i in range(len(records)) if places[i, 0] >= 0 and places[i, 1] < 2 and masks[i, places[i, 1]].sum() > 4]
    rows = rows[: a.count]
    scheduler, found = new_scheduler(), []
    use_plain_attention(model.unet, found)
    noise = torch.Generator().manual_seed(3)
    maps = {t: [] for t in TIMES}
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        x = torch.from_numpy(np.stack([pictures[i] for i in part])).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = model.vae.encode(x).latent_dist.mean * model.vae.config.scaling_factor
        states = model.states([records[i]['caption'] for i in part])
        positions = torch.from_numpy(places[part, 0].astype(np.int64))
        for t in TIMES:
            times = torch.full((len(part),), t)
            noisy = scheduler.add_noise(latents, torch.randn(latents.shape, generator=noise), times)
            found.clear()
            model.unet(noisy, times, states)
            finest = max(f.shape[2] for f in found)
            layers = [f[torch.arange(len(part)), :, :, positions].mean(1) for f in found if f.shape[2] == finest]
            maps[t].append(torch.stack(layers).mean(0))
    maps = {t: torch.cat(parts) for t, parts in maps.items()}
    side = int(maps[TIMES[0]].shape[1] ** 0.5)
    covered = torch.from_numpy(np.stack([masks[i, places[i, 1]] for i in rows]))
    covered = torch.nn.functional.adaptive_avg_pool2d(covered, side).flatten(1)
    enough = covered.amax(1).clamp(max=0.5)

    def hits(map_: torch.Tensor) -> dict:
        at = map_.argmax(1)
        return share((covered[torch.arange(len(rows)), at] >= enough).tolist())

    keep(
        a,
        'attention',
        {
            'pictures': len(rows),
            'side': side,
            'peak': hits(torch.stack(list(maps.values())).mean(0)),
            'byTimestep': {str(t): hits(m) for t, m in maps.items()},
            'byChance': round((covered >= enough[:, None]).float().mean().item(), 4),
        },
    )


if __name__ == '__main__':
    main()
