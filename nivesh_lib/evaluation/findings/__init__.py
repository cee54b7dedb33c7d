"""Findings: what an analysis found, judged and put into words by one function each."""
