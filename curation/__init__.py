"""Selection of samples, dataset versions and exports."""
