mod agreement;
mod generate;
mod planted;
