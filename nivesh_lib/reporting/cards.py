"""Cards: what a reader must know about a dataset version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def data_card(manifest: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, str]:
    """Return what a reader must know about a dataset version, as label and text."""
    held, parent = len(manifest.get("holdout", [])), manifest.get("parent")
    counts = stats["label_distribution"]
    rarest, commonest = min(counts, key=counts.get), max(counts, key=counts.get)
    cross = manifest.get("cross_split_duplicates", {})
    card = {
        "Dataset": f"{manifest['name']} {manifest['version']}, made {manifest['created']}",
        "What it is": manifest.get("description", ""),
        "Rows": f"{manifest['rows']:,} in all, {held:,} held out and not seen here",
        "Labels": f"{len(counts)}; rarest {rarest} ({counts[rarest]} training rows), "
        f"most frequent {commonest} ({counts[commonest]})",
        "Words in a query": f"{stats['min_query_length']} to {stats['max_query_length']}, "
        f"{stats['avg_query_length']:.1f} on average",
        "Parent version": str(parent) if parent else "none",
        "Duplicates across the split": f"{cross.get('exact', 0)} exact, "
        f"{cross.get('near', 0)} near",
        "Sources": ", ".join(manifest.get("sources", [])) or "not stated",
        "Licence": manifest.get("licence") or "not stated",
    }
    return {key: text for key, text in card.items() if text}
