"""Parameters of TrainOperator for what a training does besides the fit: calibration, threshold, weights, intervals."""
