"""The lineage of each stage. Every public function is named after the step whose lineage it returns."""
