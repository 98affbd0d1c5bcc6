"""Boosted trees of XGBoost, LightGBM and CatBoost on streamed rows, with native categories and missing values."""
