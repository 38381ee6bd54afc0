"""Whether lower or higher values of a metric are better, by the words of its name."""

from __future__ import annotations

import re

MIN, MAX, AUTO = "min", "max", "auto"

_DOWN = re.compile(
    r"loss|perplexity|ppl|error|err|wer|cer|mer|ter|mae|mse|rmse|mape|nll|bpb|bpc|brier"
    r"|grad|norm|hinge|fid|distance"
)
_UP = re.compile(
    r"acc|accuracy|f1|f2|auc|auroc|auprc|roc|precision|recall|bleu|sacrebleu|rouge[0-9a-z]*|meteor"
    r"|chrf|bertscore|em|exact|r2|mcc|matthews|pearson|spearman|kappa|reward|rewards|score"
    r"|map|ndcg|mrr|iou|dice|accuracies|margin|margins|psnr|ssim"
)


def direction(metric: str) -> str | None:
    """``min`` or ``max``; None if no word of the name decides, or words disagree."""
    words = [word for word in re.split(r"[^a-z0-9]+", metric.lower()) if word]
    down = any(_DOWN.fullmatch(word) for word in words)
    up = any(_UP.fullmatch(word) for word in words)
    if down == up:
        return None
    return MIN if down else MAX


def better(metric: str, mode: str) -> str:
    """``min`` or ``max``: ``mode``, or for ``auto`` what the name shows.

    A name that does not show it is a loss if it has "loss" in it; else higher is better.
    """
    if mode != AUTO:
        return mode
    return direction(metric) or (MIN if "loss" in metric.lower() else MAX)
