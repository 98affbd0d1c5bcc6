"""What a training does besides the fit, as the parameters of TrainOperator declare it. Specs import these modules."""
