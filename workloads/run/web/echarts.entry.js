// The parts of Apache ECharts 6.1.0 that the figures need, as echarts.min.js beside this file, which is made of it with
//   npm install echarts@6.1.0 esbuild@0.28.2
//   npx esbuild echarts.entry.js --bundle --minify --format=iife --global-name=echarts --legal-comments=none
//       --banner:js="/*! Apache ECharts 6.1.0, Apache-2.0, https://echarts.apache.org */" --outfile=echarts.min.js
import { use } from "echarts/core";
import { BarChart, LineChart, ParallelChart, ScatterChart } from "echarts/charts";
import {
  DataZoomComponent, GridComponent, LegendScrollComponent, MarkLineComponent, MarkPointComponent, ParallelComponent,
  ToolboxComponent, TooltipComponent,
} from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";

use([
  BarChart, LineChart, ParallelChart, ScatterChart, DataZoomComponent, GridComponent, LegendScrollComponent, MarkLineComponent,
  MarkPointComponent, ParallelComponent, ToolboxComponent, TooltipComponent, CanvasRenderer,
]);

export { init } from "echarts/core";
