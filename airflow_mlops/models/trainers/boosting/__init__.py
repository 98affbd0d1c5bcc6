"""Boosted trees of XGBoost, LightGBM and CatBoost, trained on streamed rows with native categories and missing values."""
