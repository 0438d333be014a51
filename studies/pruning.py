"""Training tasks without those that are like others, for pruning.diff."""

import torch

import common
from prm_data import rows


def check_task(task: dict) -> None:
    """Raises ValueError for a task that cannot be judged or has no reference."""
    rows.check_reference(task, "tasks are compared by prompt and reference")


@torch.no_grad()
def embeddings(tasks: list[dict], tokenizer, config) -> torch.Tensor:
    """One vector a task, (N, H): the mean of the starting policy's last hidden states over the
    tokens of prompt and reference."""
    policy = common.shard(common.load_policy(config.model_name_or_path, config).eval(), config)
    prompt_format, found = common.prompt_format_of(config), []
    for start in range(0, len(tasks), config.per_device_train_batch_size):
        batch = tasks[start : start + config.per_device_train_batch_size]
        prompts = [common.encode_prompt(tokenizer, task, prompt_format) for task in batch]
        texts = [common.encode_text(tokenizer, task["solution"]) for task in batch]
        ids, _ = common.pad_pairs(prompts, texts)
        lengths = [len(p) + len(t) for p, t in zip(prompts, texts, strict=True)]
        common.check_length(config.model_name_or_path, policy, max(lengths))
        states = policy(input_ids=ids, output_hidden_states=True).hidden_states[-1].float()
        means = [row[:length].mean(0) for row, length in zip(states, lengths, strict=True)]
        found.append(torch.stack(means).cpu())
    return torch.cat(found)


def project(vectors: torch.Tensor, num_components: int) -> torch.Tensor:
    """Vectors (N, H) on their first principal components: (N, num_components) or less."""
    centred = vectors - vectors.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return (u * s)[:, :num_components]


def clusters_of(points: torch.Tensor, num_clusters: int, seed: int) -> list[list[int]]:
    """Indices of points (N, D) in k-means clusters (Lloyd's algorithm, 20 rounds)."""
    first = common.shuffled(len(points), seed, "k-means")[:num_clusters]
    centres = points[first]
    for _ in range(20):
        nearest = torch.cdist(points, centres).argmin(1)
        for k in range(len(centres)):
            if (nearest == k).any():
                centres[k] = points[nearest == k].mean(0)
    return [(nearest == k).nonzero().flatten().tolist() for k in range(len(centres))]


def thin_out(points: torch.Tensor, size: int) -> list[int]:
    """Indices of `size` of the points (N, D): one point of the closest pair goes, again and again;
    of the two, the one that is closer to a third."""
    exact = "donot_use_mm_for_euclid_dist"  # else d(a, b) and d(b, a) differ by rounding
    distance = torch.cdist(points, points, compute_mode=exact).fill_diagonal_(torch.inf)
    left = list(range(len(points)))
    while len(left) > size:
        near = distance[left][:, left].sort(1).values[:, : min(2, len(left))]  # nearest, next
        order = sorted(range(len(left)), key=lambda i: near[i].tolist())
        left.pop(order[0])
    return left


def pruned(tasks: list[dict], tokenizer, config) -> list[dict]:
    """The share config.keep_tasks of the tasks, in their order; at least one task.

    config.prune_by "random": at random. "diversity": each cluster gives its share of tasks, without
    those that are like others.
    """
    size = max(1, round(config.keep_tasks * len(tasks)))
    if config.prune_by == "random":
        return [tasks[i] for i in sorted(common.shuffled(len(tasks), config.seed, "prune")[:size])]
    points = project(embeddings(tasks, tokenizer, config), config.num_components)
    kept, so_far = [], 0
    for cluster in clusters_of(points, config.num_clusters, config.seed):
        so_far += len(cluster)
        share = round(size * so_far / len(tasks)) - len(kept)  # adds up to `size` over all
        kept += [cluster[i] for i in thin_out(points[cluster], share)]
    return [tasks[i] for i in sorted(kept)]
