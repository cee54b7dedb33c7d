"""Text classifiers behind one scikit-learn contract."""
