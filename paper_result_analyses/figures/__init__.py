"""The fast half of a figure: reads tables and pictures of the measure step, draws one PNG."""
