"""Fine-tune a tiny model with TRL's ``SFTTrainer``. It does not use Lineside.

    pip install trl datasets
    lineside run -- python examples/sft_trl.py --output /tmp/sft

The model is made on the spot and its tokenizer is trained on the examples, so that nothing is
downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer


def sums(count: int) -> list[dict[str, str]]:
    """Questions that a small model can learn to answer."""
    return [
        {"prompt": f"{a} plus {b} is", "completion": f" {a + b} ."}
        for a in range(count)
        for b in range(count)
    ]


def tokenizer_for(texts: list[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for exactly these texts."""
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<eos>"}
    tokenizer = Tokenizer(models.WordLevel(unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=list(special.values()))
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach a tiny model sums, with TRL.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--max-steps", type=int, default=60)
    options = parser.parse_args()

    rows = sums(12)
    tokenizer = tokenizer_for([row["prompt"] + row["completion"] for row in rows])
    data = Dataset.from_list(rows).train_test_split(test_size=0.1, seed=1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.eos_token_id,
        )
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(options.output),
            max_steps=options.max_steps,
            per_device_train_batch_size=8,
            learning_rate=5e-3,
            logging_steps=5,
            eval_strategy="steps",
            eval_steps=max(1, options.max_steps // 3),
            save_steps=max(1, options.max_steps // 3),
            save_total_limit=2,
            max_length=16,
            report_to="none",
            use_cpu=True,
            bf16=False,  # TRL's default, which not every CPU has
            dataloader_pin_memory=False,
        ),
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=tokenizer,
    )
    trainer.train()


if __name__ == "__main__":
    main()
