"""Data cards: a summary of a dataset version for readers of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def data_card(manifest: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, str]:
    """Return the summary of a dataset version as heading -> text, without empty entries.

    Parameters
    ----------
    manifest
        Of the version: ``name``, ``version``, ``created``, ``rows`` and optional fields.
    stats
        ``label_distribution`` (label -> training rows) and the least, largest and average
        ``…_query_length`` in words.
    """
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
